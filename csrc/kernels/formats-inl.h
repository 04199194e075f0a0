// How frozen weights are stored, and multiplied as they are. A format is
//
//   Stored       the type of a weight
//   kDepth       values that follow each other in a sum, side by side in a panel
//   kStep        values of a sum that a round of multiplying takes: panels are padded to it with zeros
//   kBlockRows   rows of activations that are multiplied at once, at most
//   kOnTiles     by the matrix unit, which reads and writes whole tiles of rows: of encoded rows, initial sums and sums
//                there are so many more, whose values nobody looks at
//   kLeftTiles   tiles beside each other of up to 16 encoded rows
//   kIntegers    32-bit integers that `begin` leaves for each product of a row and a column, if any
//
//   row_bytes(K)               an encoded row of K activations
//   encode(dst, x, K)          makes it
//   begin (block, beside)      multiplies a block; on the matrix unit `beside` runs between its steps
//   finish(block, begin, end)  if there are integers: makes those of its rows the sums they stand for; later, beside
//   the next block's products
//
// The last two are templates of the cell's gates, of the most vectors of units in a block, and of Side.
#pragma once

#include "kernels/products-inl.h"

namespace fastrnn {
namespace {

// The packed weights of one group of columns.
template <class S>
struct Columns {
  const S* panel;        // [k / kDepth][column vector][lane][kDepth]
  const float* scale;    // [column vector][lane]; null but for int8_t
  const int32_t* start;  // [column vector][lane]: -128 times the sum of a column; null but for int8_t
};

template <class Format>
constexpr bool kScaled = std::is_same_v<typename Format::Stored, int8_t>;

// Encoded rows, one behind the other.
struct Encoded {
  const char* data;
  int64_t ld;  // bytes
};

// What sums begin with, row after row; with ld 0 the same for all.
struct InitialSums {
  const float* data;
  int64_t ld;
};

// Which of a layer's two products.
enum class Side { kInput, kHidden };
template <class Gates, Side kSide>
constexpr int sum_of(int gate) {
  return kSide == Side::kInput ? Gates::x_sum(gate) : Gates::h_sum(gate);
}

// Some rows' sums for one group of units: what they begin with plus, at sum_of(gate), the products of the encoded rows
// and the gate's columns.
template <class S>
struct BlockSums {
  float* out;  // [row][sum][unit]
  int32_t* integers;
  int rows, vectors;  // of units
  InitialSums init;
  Encoded left;  // null: no product
  Columns<S> w;
  int64_t K;
};

// The product of a column, scaled where the format has a scale for it, added to one vector of sums.
template <class Format>
FASTRNN_INLINE void add_product(float* sums, Vec<float> product, const Columns<typename Format::Stored>& w, int c) {
  if constexpr (kScaled<Format>)
    store(sums, load(sums) + product * load(w.scale + c * kLanes<float>));
  else
    store(sums, load(sums) + product);
}

// `rows` from the row-th of a block on, in registers.
template <class Format, class Gates, Side kSide, int kVectors, int kRows>
FASTRNN_NOINLINE void vector_tile(const BlockSums<typename Format::Stored>& block, int row) {
  constexpr int kSums = Gates::kSums * kVectors, kCols = Gates::kGates * kVectors;
  float* const out = block.out + row * kSums * kLanes<float>;
  FASTRNN_UNROLL
  for (int r = 0; r < kRows; ++r)
    __builtin_memcpy(out + r * kSums * kLanes<float>, block.init.data + (row + r) * block.init.ld,
                     kSums * kLanes<float> * sizeof(float));
  if (!block.left.data) return;
  Vec<float> product[kRows][kCols];
  Format::template multiply<kRows, kCols>(product, {block.left.data + row * block.left.ld, block.left.ld}, block.w,
                                          block.K);
  FASTRNN_UNROLL
  for (int c = 0; c < kCols; ++c) {
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r)
      add_product<Format>(
          out + (r * kSums + sum_of<Gates, kSide>(c / kVectors) * kVectors + c % kVectors) * kLanes<float>,
          product[r][c], block.w, c);
  }
}

// What formats on vectors have in common. Of theirs is
//
//   multiply(out, rows, w, K)   products of kRows encoded rows and kCols vectors of columns, before Columns::scale
template <class Format, int kRows>
struct OnVectors {
  static constexpr int kBlockRows = kRows, kLeftTiles = 0, kIntegers = 0;
  static constexpr bool kOnTiles = false;

  template <class Gates, int kMostVectors, Side kSide, class Block, class Beside>
  static FASTRNN_INLINE void begin(const Block& block, Beside&&) {
    for_row_blocks(kRows, {0, block.rows}, [&](int64_t row, int count) {
      with_constant<kMostVectors>(block.vectors, [&]<int kVectors>() {
        with_constant<kRows>(
            count, [&]<int kCount>() { vector_tile<Format, Gates, kSide, kVectors, kCount>(block, int(row)); });
      });
    });
  }
};

// Rows of activations are encoded a whole vector at a time.
constexpr int64_t whole_vectors(int64_t n) { return divide_up(n, kLanes<float>) * kLanes<float>; }

// For any processor: weights become float32 in registers, where they are not, activations are float32.
template <class S>
struct Widened : OnVectors<Widened<S>, kTileRows> {
  using Stored = S;
  // A lane of 32 bits holds them all, so that shifts alone take them out.
  static constexpr int kDepth = 4 / sizeof(S), kStep = kDepth;

  static int64_t row_bytes(int64_t K) { return divide_up(K, kStep) * kStep * int64_t(sizeof(float)); }
  static void encode(char* dst, const float* x, int64_t K) {
    __builtin_memcpy(dst, x, K * sizeof(float));
    __builtin_memset(dst + K * sizeof(float), 0, row_bytes(K) - K * sizeof(float));
  }

  template <int kRows, int kCols>
  static FASTRNN_INLINE void multiply(Vec<float> (&out)[kRows][kCols], Encoded rows, const Columns<S>& w, int64_t K) {
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) out[r][c] = Vec<float>{};
    }
    for (int64_t k = 0; k < K; k += kStep) {
      FASTRNN_UNROLL
      for (int i = 0; i < kDepth; ++i) {
        FASTRNN_UNROLL
        for (int c = 0; c < kCols; ++c) {
          const Vec<float> weight = widened(w.panel + (k * kCols + c * kDepth) * kLanes<float>, i);
          FASTRNN_UNROLL
          for (int r = 0; r < kRows; ++r)
            out[r][c] += broadcast<float>(reinterpret_cast<const float*>(rows.data + r * rows.ld)[k + i]) * weight;
        }
      }
    }
  }

 private:
  // The i-th weight of each lane.
  static FASTRNN_INLINE Vec<float> widened(const S* p, int i) {
    Bits<float> lanes;
    __builtin_memcpy(&lanes, p, sizeof lanes);
    if constexpr (sizeof(S) == 4) return (Vec<float>)lanes;
    if constexpr (sizeof(S) == 2) return (Vec<float>)(lanes >> (16 * i) << 16);
    return __builtin_convertvector(lanes << (24 - 8 * i) >> 24, Vec<float>);
  }
};

#if defined(FASTRNN_BFLOAT16)

// Activations are rounded to bfloat16; products of pairs are added in float32.
struct Rounded : OnVectors<Rounded, 3> {
  using Stored = BFloat16;
  static constexpr int kDepth = 2, kStep = 4;

  static int64_t row_bytes(int64_t K) { return whole_vectors(K) * int64_t(sizeof(BFloat16)); }
  static void encode(char* dst, const float* x, int64_t K) {
    for (int64_t k = 0; k < K; k += kLanes<float>)
      store(reinterpret_cast<BFloat16*>(dst) + k, load(x + k, valid_lanes<float>(k, K)));
  }

  template <int kRows, int kCols>
  static FASTRNN_INLINE void multiply(Vec<float> (&out)[kRows][kCols], Encoded rows, const Columns<BFloat16>& w,
                                      int64_t K) {
    constexpr int kChains = kStep / kDepth;  // for a single row, whose few sums alone would wait for one another
    Vec<float> sum[kRows][kCols][kChains] = {};
    for (int64_t k = 0; k < K; k += kStep) {
      FASTRNN_UNROLL
      for (int i = 0; i < kChains; ++i) {
        const BFloat16* panel = w.panel + (k + i * kDepth) * kCols * kLanes<float>;
        Vec<float> weight[kCols];
        FASTRNN_UNROLL
        for (int c = 0; c < kCols; ++c) weight[c] = load_pairs(panel + c * kDepth * kLanes<float>);
        FASTRNN_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const Vec<float> x =
              broadcast_pair(reinterpret_cast<const BFloat16*>(rows.data + r * rows.ld) + k + i * kDepth);
          FASTRNN_UNROLL
          for (int c = 0; c < kCols; ++c) multiply_add<BFloat16>(sum[r][c][i], x, weight[c]);
        }
      }
    }
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) out[r][c] = sum[r][c][0] + sum[r][c][1];
    }
  }
};

// Activations are 16-bit fixed point with one scale for a row: x = scale * (256 * high + low - 32768), high and low
// unsigned bytes. So sums of products with the weights are exact: those of high (which start from the -32768 in units
// of 256) and of low in 32 bits each, up to some 66,000 products.
struct FixedPoint : OnVectors<FixedPoint, 3> {
  using Stored = int8_t;
  static constexpr int kDepth = 4, kStep = 4;

  // Those of high, those of low, each in whole lines as a tile takes them, and the scale in a line of its own: with it,
  // rows do not fall into one set of the cache.
  static constexpr int kLine = 64;
  static int64_t to_low(int64_t K) { return divide_up(K, kLine) * kLine; }
  static int64_t row_bytes(int64_t K) { return 2 * to_low(K) + kLine; }
  static float scale(const char* row, int64_t K) {
    float scale;
    __builtin_memcpy(&scale, row + 2 * to_low(K), sizeof scale);
    return scale;
  }

  // A row with NaN or infinity gets the scale NaN, and so have all its sums.
  static void encode(char* dst, const float* x, int64_t K) {
    constexpr float kMost = 32767, kRound = ExpConstants<float>::round;
    constexpr float kLeast = 1e-34f;  // what is smaller counts as 0: kMost / largest must be finite
    constexpr int32_t kInfinity = 0x7f800000;
    Bits<float> magnitudes{};
    for (int64_t k = 0; k < K; k += kLanes<float>) {
      // As integers, magnitudes are in the same order, with NaN above infinity.
      const Bits<float> m = (Bits<float>)load(x + k, valid_lanes<float>(k, K)) & ~sign_bit<float>();
      magnitudes = m > magnitudes ? m : magnitudes;
    }
    int32_t bits = 0;
    for (int i = 0; i < kLanes<float>; ++i) bits = magnitudes[i] > bits ? magnitudes[i] : bits;
    const float largest = __builtin_bit_cast(float, bits);
    const bool zero = largest < kLeast;
    const float scale = bits >= kInfinity ? __builtin_nanf("") : zero ? 0 : largest / kMost;
    const float inverse = bits >= kInfinity || zero ? 0 : kMost / largest;
    char *high = dst, *low = dst + to_low(K);
    for (int64_t k = 0; k < K; k += kLanes<float>) {
      const Vec<float> shifted = load(x + k, valid_lanes<float>(k, K)) * inverse + kRound;
      const Bits<float> code = (Bits<float>)shifted - (Bits<float>)broadcast<float>(kRound) + 32768;
      store_bytes(high + k, code >> 8);
      store_bytes(low + k, code);
    }
    __builtin_memcpy(low + to_low(K), &scale, sizeof scale);
  }

  template <int kRows, int kCols>
  static FASTRNN_INLINE void multiply(Vec<float> (&out)[kRows][kCols], Encoded rows, const Columns<int8_t>& w,
                                      int64_t K) {
    const char *high = rows.data, *low = rows.data + to_low(K);
    __m512i of_high[kRows][kCols], of_low[kRows][kCols];
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) {
        of_high[r][c] = _mm512_loadu_si512(w.start + c * kLanes<float>);
        of_low[r][c] = _mm512_setzero_si512();
      }
    }
    for (int64_t k = 0; k < K; k += kStep) {
      __m512i weight[kCols];
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c)
        weight[c] = _mm512_loadu_si512(w.panel + (k * kCols + c * kDepth) * kLanes<float>);
      FASTRNN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const __m512i h = broadcast_four(high + r * rows.ld + k), l = broadcast_four(low + r * rows.ld + k);
        FASTRNN_UNROLL
        for (int c = 0; c < kCols; ++c) {
          add_products(of_high[r][c], h, weight[c]);
          add_products(of_low[r][c], l, weight[c]);
        }
      }
    }
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float scale = FixedPoint::scale(rows.data + r * rows.ld, K);
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) out[r][c] = product((Bits<float>)of_high[r][c], (Bits<float>)of_low[r][c], scale);
    }
  }

  static FASTRNN_INLINE Vec<float> product(Bits<float> of_high, Bits<float> of_low, float scale) {
    return (256 * __builtin_convertvector(of_high, Vec<float>) + __builtin_convertvector(of_low, Vec<float>)) * scale;
  }

 private:
  // Not the intrinsic: with it GCC 12 loads a weight once for each of its products, and loads are the limit here.
  static FASTRNN_INLINE void add_products(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
  }
  static FASTRNN_INLINE void store_bytes(char* p, Bits<float> v) {
    _mm_storeu_si128((__m128i*)p, _mm512_maskz_cvtepi32_epi8((__mmask16)-1, (__m512i)v));
  }
  static FASTRNN_INLINE __m512i broadcast_four(const char* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
  }
};

#endif

#if defined(FASTRNN_MATRIX)

// Rounded on the matrix unit, whose sums add up in another order.
struct RoundedOnTiles {
  using Stored = BFloat16;
  static constexpr int kDepth = 2, kStep = kTileDepth<BFloat16>, kBlockRows = kMostRows<BFloat16>, kLeftTiles = 1,
                       kIntegers = 0;
  static constexpr bool kOnTiles = true;

  static int64_t row_bytes(int64_t K) { return row_ld<BFloat16>(K) * int64_t(sizeof(BFloat16)); }
  // With zeros up to the end of a tile: what is there meets zeros, and must be finite.
  static void encode(char* dst, const float* x, int64_t K) {
    for (int64_t k = 0; k < whole_depth<BFloat16>(K); k += kLanes<float>)
      store(reinterpret_cast<BFloat16*>(dst) + k, load(x + k, valid_lanes<float>(k, K)));
  }

  template <class Gates, int kMostVectors, Side kSide, class Beside>
  static FASTRNN_INLINE void begin(const BlockSums<BFloat16>& block, Beside&& beside) {
    const Operand<BFloat16> none{nullptr, 0, nullptr, 0},
        rows{reinterpret_cast<const BFloat16*>(block.left.data), block.left.ld / int64_t(sizeof(BFloat16)),
             block.w.panel, block.K};
    matrix_gate_sums<Gates, kMostVectors>(block.out, block.rows, block.vectors, block.init.data, block.init.ld,
                                          kSide == Side::kInput ? rows : none, kSide == Side::kInput ? none : rows,
                                          beside);
  }
};

// FixedPoint on the matrix unit: the same integers, so the same bits.
struct FixedPointOnTiles : FixedPoint {
  static constexpr int kStep = kTileDepth<int8_t>, kBlockRows = 2 * kTileHeight, kLeftTiles = 2, kIntegers = 2;
  static constexpr bool kOnTiles = true;
  // Up to so many rows vectors take 0.65 to 0.9 of the tiles' time; with 3 tiles take 0.75 of theirs, in an LSTM of 256
  // units.
  static constexpr int kFewRows = 2;

  template <class Gates, int kMostVectors, Side kSide, class Beside>
  static FASTRNN_INLINE void begin(const BlockSums<int8_t>& block, Beside&& beside) {
    if (!block.left.data || block.rows <= kFewRows) return FixedPoint::begin<Gates, kMostVectors, kSide>(block, beside);
    with_constant<kMostVectors>(block.vectors,
                                [&]<int kVectors>() { multiply_tiles<Gates::kGates * kVectors>(block, beside); });
  }
  template <class Gates, int kMostVectors, Side kSide>
  static FASTRNN_INLINE void finish(const BlockSums<int8_t>& block, int begin, int end) {
    if (!block.left.data || block.rows <= kFewRows) return;
    with_constant<kMostVectors>(block.vectors,
                                [&]<int kVectors>() { add_integers<Gates, kSide, kVectors>(block, begin, end); });
  }

 private:
  // Four tiles of sums: those of high and of low by two vectors of columns, whose bytes each are loaded once for both.
  // integers[row / 16][high, low][row % 16][column].
  template <int kCols, class Beside>
  static FASTRNN_NOINLINE void multiply_tiles(const BlockSums<int8_t>& block, Beside&& beside) {
    constexpr int kRowTiles = 2;
    constexpr int64_t kWidth = kCols * kTileWidth, kSums = kRowTiles * kTileHeight * kWidth;
    const int64_t to_low = FixedPoint::to_low(block.K), ld = block.left.ld;
    const int tiles = int(divide_up(block.rows, kTileHeight));
    beside.spread(kColumnTurns<kRowTiles, kCols> * tiles * to_low / kTileDepth<int8_t>);
    for_column_tiles<kRowTiles, kCols>([&](auto sums) __attribute__((always_inline)) {
      for (int t = 0; t < tiles; ++t) {
        sums.for_each([&]<int tile>(int64_t row, int64_t column) __attribute__((always_inline)) {
          if (row == 0)
            sums.tiles.template load<tile>(block.w.start + column, 0);
          else
            sums.tiles.template zero<tile>();
        });
        const auto* left = reinterpret_cast<const int8_t*>(block.left.data + t * kTileHeight * ld);
        sums.template add_product<kCols, SameColumn>(LeftTiles<int8_t>{left, ld, to_low, kTileDepth<int8_t>},
                                                     Panel<int8_t>{block.w.panel, kWidth}, block.K, beside);
        sums.store(block.integers + t * kSums, kWidth);
      }
    });
  }

  template <class Gates, Side kSide, int kVectors>
  static FASTRNN_NOINLINE void add_integers(const BlockSums<int8_t>& block, int begin, int end) {
    constexpr int kSums = Gates::kSums * kVectors, kCols = Gates::kGates * kVectors, kWidth = kCols * kTileWidth;
    for (int r = begin; r < end; ++r) {
      float* const out = block.out + r * kSums * kLanes<float>;
      __builtin_memcpy(out, block.init.data + r * block.init.ld, kSums * kLanes<float> * sizeof(float));
      const float scale = FixedPoint::scale(block.left.data + r * block.left.ld, block.K);
      const int32_t* high = block.integers + (r / kTileHeight * 2 * kTileHeight + r % kTileHeight) * kWidth;
      const int32_t* low = high + kTileHeight * kWidth;
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) {
        Bits<float> of_high, of_low;
        __builtin_memcpy(&of_high, high + c * kTileWidth, sizeof of_high);
        __builtin_memcpy(&of_low, low + c * kTileWidth, sizeof of_low);
        add_product<FixedPoint>(out + (sum_of<Gates, kSide>(c / kVectors) * kVectors + c % kVectors) * kLanes<float>,
                                product(of_high, of_low, scale), block.w, c);
      }
    }
  }
};

#endif

}  // namespace
}  // namespace fastrnn
