// The matrix unit: eight registers of up to 16 rows of 64 bytes, the tiles, and products of two into a third.
//
// In hardware they are AMX's. In software they are a struct of loops that gives the same bits, so that whatever is
// built on them is proven on processors without the unit. Intel's Software Developer's Manual, TDPBF16PS, defines the
// order of the sums: those of the even and of the odd values along k, each in float32, then both together, then onto
// what the tile holds; denormal numbers are zeros. Sums of bytes are exact, modulo 2^32.
#pragma once

#include "kernels/vec.h"

namespace fastrnn {
namespace {

constexpr int kTileHeight = 16;  // rows of a tile
constexpr int kTileWidth = 16;   // sums in a row
constexpr int kSumTiles = 4;     // the first ones; behind them come those of left operands, then of right ones
// Values of a sum that one product takes, and how many of them follow each other in a row of the right operand.
template <class T>
constexpr int kTileDepth = 64 / int(sizeof(T));
template <class T>
constexpr int kTileStep = 4 / int(sizeof(T));

#if !defined(FASTRNN_SOFTWARE_TILES)

// Not the intrinsics: in GCC they are macros, whose register must be a literal.
struct Tiles {
  // The first `few` tiles get so many rows, the others 16.
  static void shape(int rows, int few) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    for (int tile = 0; tile < few; ++tile) shapes.rows[tile] = uint8_t(rows);
    __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
  }
  static void release() { __asm__ volatile("tilerelease"); }

  template <int kTile>
  FASTRNN_INLINE void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  FASTRNN_INLINE void load(const void* rows, int64_t stride_bytes) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride_bytes), "i"(kTile) : "memory");
  }
  template <int kTile>
  FASTRNN_INLINE void store(void* rows, int64_t stride_bytes) const {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride_bytes), "i"(kTile) : "memory");
  }
  // sum[m][n] += left[m][k] * right[k / step][n][k % step] over k: in bfloat16, or of signed bytes, those on the left
  // unsigned.
  template <class T, int kSum, int kLeft, int kRight>
  FASTRNN_INLINE void multiply_add() {
    if constexpr (sizeof(T) == 1)
      __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
    else
      __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
  }
};

#else

struct Tiles {
  static void shape(int rows, int few) {
    for (int tile = 0; tile < 8; ++tile) rows_[tile] = tile < few ? rows : kTileHeight;
  }
  static void release() {
    for (int& rows : rows_) rows = 0;
  }

  template <int kTile>
  void zero() {
    __builtin_memset(tile_[kTile], 0, sizeof tile_[kTile]);
  }
  // Of a block that ends within a tile the rows behind it are read too, whose sums nobody looks at; another thread may
  // be writing them, which ThreadSanitizer need not report.
  template <int kTile>
  __attribute__((no_sanitize("thread"))) void load(const void* rows, int64_t stride_bytes) {
    for (int m = 0; m < rows_[kTile]; ++m)
      *reinterpret_cast<Line*>(tile_[kTile][m]) =
          *reinterpret_cast<const Line*>(static_cast<const char*>(rows) + m * stride_bytes);
  }
  template <int kTile>
  void store(void* rows, int64_t stride_bytes) const {
    for (int m = 0; m < rows_[kTile]; ++m)
      __builtin_memcpy(static_cast<char*>(rows) + m * stride_bytes, tile_[kTile][m], sizeof tile_[kTile][m]);
  }
  template <class T, int kSum, int kLeft, int kRight>
  void multiply_add() {
    // The hardware's fault of an illegal instruction.
    if (rows_[kLeft] != rows_[kSum] || rows_[kRight] != kTileHeight) __builtin_trap();
    for (int m = 0; m < rows_[kSum]; ++m) {
      const char* left = tile_[kLeft][m];
      if constexpr (sizeof(T) == 1)
        add_bytes(tile_[kSum][m], left, tile_[kRight]);
      else
        add_pairs(tile_[kSum][m], left, tile_[kRight]);
    }
  }

 private:
  typedef float Row __attribute__((vector_size(kTileWidth * sizeof(float))));
  typedef uint32_t Line __attribute__((vector_size(kTileWidth * sizeof(float)), aligned(1), may_alias));
  typedef uint32_t RowBits __attribute__((vector_size(kTileWidth * sizeof(float))));
  typedef int32_t SignedRow __attribute__((vector_size(kTileWidth * sizeof(float))));
  static constexpr uint32_t kOdd = 0xffff0000, kExponent = 0x7f800000, kSign = 0x80000000;
  static constexpr int kRowBytes = kTileWidth * sizeof(float);

  // One row of a product.
  static void add_pairs(char* sums, const char* left_row, const char (*right_rows)[kRowBytes]) {
    Row even{}, odd{}, sum;
    for (int pair = 0; pair < kTileDepth<BFloat16> / 2; ++pair) {
      uint32_t left;
      __builtin_memcpy(&left, left_row + pair * sizeof left, sizeof left);
      RowBits right;
      __builtin_memcpy(&right, right_rows[pair], sizeof right);
      even = flushed(even + flushed((Row)(right << 16)) * flushed(left << 16));
      odd = flushed(odd + flushed((Row)(right & kOdd)) * flushed(left & kOdd));
    }
    __builtin_memcpy(&sum, sums, sizeof sum);
    sum = flushed(flushed(sum) + flushed(even + odd));
    __builtin_memcpy(sums, &sum, sizeof sum);
  }
  static void add_bytes(char* sums, const char* left_row, const char (*right_rows)[kRowBytes]) {
    RowBits sum;
    __builtin_memcpy(&sum, sums, sizeof sum);
    for (int k = 0; k < kTileDepth<int8_t>; ++k) {
      RowBits right;
      __builtin_memcpy(&right, right_rows[k / 4], sizeof right);
      // The byte of each lane with its sign, by an arithmetic shift.
      const RowBits signed_bytes = (RowBits)((SignedRow)(right << (24 - k % 4 * 8)) >> 24);
      sum += signed_bytes * uint32_t(uint8_t(left_row[k]));
    }
    __builtin_memcpy(sums, &sum, sizeof sum);
  }

  static Row flushed(Row v) {
    const RowBits bits = (RowBits)v;
    return (Row)((bits & kExponent) == 0 ? bits & kSign : bits);
  }
  static float flushed(uint32_t bits) {
    return __builtin_bit_cast(float, (bits & kExponent) == 0 ? bits & kSign : bits);
  }

  static inline thread_local int rows_[8];
  alignas(64) char tile_[8][kTileHeight][kRowBytes];
};

#endif

// A thread's use of the tiles: none before they have a shape. Shaping and releasing cost 55 ns; tiles that nobody
// released are 8 KB to save at every later switch of contexts.
class TilesInUse {
 public:
  explicit TilesInUse(bool used) : used_(used) {}
  ~TilesInUse() {
    if (rows_ > 0) Tiles::release();
  }
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;

  // For products of so many rows on the left, in so many tiles beside each other unless there are more than 16. With a
  // right operand in L2 a product of one row takes 0.7 of the time in tiles of one row.
  void shape(int64_t rows, int left_tiles = 1) {
    const int height = int(smaller(rows, kTileHeight));
    if (!used_ || height == 0 || height == rows_) return;
    rows_ = height;
    Tiles::shape(height, kSumTiles + left_tiles);
  }
  void shape_whole() { shape(kTileHeight); }

 private:
  const bool used_;
  int rows_ = 0;
};

}  // namespace
}  // namespace fastrnn
