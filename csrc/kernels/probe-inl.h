// What the machine can do at most: the rate of fused multiply-adds, that of a register tile, and of reading a buffer.
#pragma once

#include "kernels/products-inl.h"

namespace fastrnn {
namespace {

// Independent multiply-adds, enough of them to hide their latency. Returns how many scalar ones were done.
template <class T>
FASTRNN_NOINLINE double multiply_adds(int64_t rounds) {
  constexpr int chains = 12;
  Vec<T> acc[chains];
  // Hidden from the compiler, which finds a chain that begins at its fixed point and leaves it out.
  Real<T> start = 0;
  __asm__ volatile("" : "+m"(start));
  FASTRNN_UNROLL
  for (int i = 0; i < chains; ++i) acc[i] = broadcast<Real<T>>(start + i);
  Vec<T> factor = broadcast<Real<T>>(Real<T>(0.5)), term = broadcast<Real<T>>(1);
  for (int64_t n = 0; n < rounds; ++n) {
    FASTRNN_UNROLL
    for (int i = 0; i < chains; ++i) {
      if constexpr (kPair<T> > 1)
        multiply_add<T>(acc[i], factor, term);
      else
        acc[i] = acc[i] * factor + term;
    }
    __asm__ volatile("" : : : "memory");
  }
  FASTRNN_UNROLL
  for (int i = 1; i < chains; ++i) acc[0] += acc[i];
  volatile Real<T> sink = acc[0][0];
  (void)sink;
  return double(rounds) * chains * kPair<T> * kLanes<T>;
}

// A register tile that adds up the same products again and again, from operands in L1. Returns how many scalar
// multiply-adds were done.
template <class T, int kRows, int kCols>
FASTRNN_NOINLINE double tile_of(int64_t rounds) {
  // Half of the smallest L1.
  constexpr int64_t kBytes = 16384, kWidth = kCols * kLanes<T>, kLength = kBytes / (kWidth * sizeof(T));
  alignas(64) T panel[kLength * kWidth], left[kRows * kLength];
  constexpr int kOrdinary = 0x3f;  // repeated, it is 0.75 in float32 and bfloat16
  __builtin_memset(panel, kOrdinary, sizeof panel);
  __builtin_memset(left, kOrdinary, sizeof left);
  Vec<T> acc[kRows][kCols] = {};
  for (int64_t n = 0; n < rounds; ++n) {
    __asm__ volatile("" : : "r"(panel), "r"(left) : "memory");  // or their values would be known
    multiply<T, kRows, kCols, kCols, 1, false>(acc, left, kLength, panel, kWidth, kLength, nullptr,
                                               [](int c) { return c; });
  }
  FASTRNN_UNROLL
  for (int i = 1; i < kRows * kCols; ++i) acc[0][0] += acc[i / kCols][i % kCols];
  volatile Real<T> sink = acc[0][0][0];
  (void)sink;
  return double(rounds) * kRows * kLength * kWidth;
}

// The tile of plain products, or as many sums in twice its rows, which ask half as much of the panel.
template <class T>
double tile_products(int64_t rounds, bool tall) {
  return tall ? tile_of<T, 2 * kTileRows, kTileCols / 2>(rounds) : tile_of<T, kTileRows, kTileCols>(rounds);
}

#if defined(FASTRNN_MATRIX)
template <>
[[maybe_unused]] FASTRNN_NOINLINE double multiply_adds<BFloat16>(int64_t rounds) {
  TilesInUse use(true);
  use.shape_whole();
  Tiles tiles;
  for_constants<8>([&]<int i>() { tiles.template zero<i>(); });
  for (int64_t n = 0; n < rounds; ++n) {
    for_constants<4>([&]<int i>() { tiles.template multiply_add<BFloat16, i, 4 + i / 2, 6 + i % 2>(); });
  }
  return double(rounds) * 4 * kTileHeight * kTileWidth * kTileDepth<BFloat16>;
}

// 32 rows by 2 vectors of columns, the one shape that four tiles of sums have for whole blocks.
template <>
[[maybe_unused]] FASTRNN_NOINLINE double tile_products<BFloat16>(int64_t rounds, bool) {
  constexpr int kRowTiles = 2, kCols = 2, kWidth = kCols * kTileWidth, kRows = kRowTiles * kTileHeight;
  constexpr int64_t kLength = 256;
  alignas(64) BFloat16 panel[kLength * kWidth] = {}, left[kRows * row_ld<BFloat16>(kLength)] = {};
  alignas(64) float out[kRows * kWidth];
  const int64_t start = 0;
  TilesInUse use(true);
  use.shape_whole();
  for (int64_t n = 0; n < rounds; ++n)
    matrix_product_tile<kCols, kRowTiles>(out, {left, row_ld<BFloat16>(kLength), &start, 1}, {panel, kWidth}, kLength,
                                          Nothing());
  return double(rounds) * kRows * kLength * kWidth;
}
#endif

// Reads a buffer of whole tiles of vectors `rounds` times and returns a sum, so that the reads are needed.
template <class T>
FASTRNN_NOINLINE T stream(const T* buffer, int64_t elements, int64_t rounds) {
  constexpr int chains = 8;
  Vec<T> acc[chains] = {};
  for (int64_t n = 0; n < rounds; ++n) {
    for (int64_t i = 0; i + chains * kLanes<T> <= elements; i += chains * kLanes<T>) {
      FASTRNN_UNROLL
      for (int j = 0; j < chains; ++j) acc[j] += load(buffer + i + j * kLanes<T>);
    }
    __asm__ volatile("" : : : "memory");
  }
  FASTRNN_UNROLL
  for (int j = 1; j < chains; ++j) acc[0] += acc[j];
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += acc[0][i];
  return sum;
}

}  // namespace
}  // namespace fastrnn
