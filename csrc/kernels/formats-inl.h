// How frozen weights are stored, and multiplied as they are. A format is
//
//   Stored       the type of a weight
//   kTileRows    rows of activations that one tile takes at most
//   kDepth       values that follow each other in a sum, side by side in a panel
//   kStep        values of a sum that a round of `multiply` takes: panels are padded to it with zeros
//
//   row_bytes(K)                an encoded row of K activations
//   encode  (dst, x, K)         makes it
//   multiply(out, rows, w, K)   sums of kRows encoded rows by kCols vectors of columns, before Columns::scale
#pragma once

#include "kernels/tiles-inl.h"

namespace fastrnn {
namespace {

// The packed weights of one group of columns.
template <class S>
struct Columns {
  const S* panel;        // [k / kDepth][column vector][lane][kDepth]
  const float* scale;    // [column vector][lane]; null for bfloat16
  const int32_t* start;  // [column vector][lane]: -128 times the sum of a column; null for bfloat16
};

template <class Format>
constexpr bool kScaled = std::is_same_v<typename Format::Stored, int8_t>;

// Encoded rows, one behind the other.
struct Encoded {
  const char* data;
  int64_t ld;  // bytes
};

// Rows of activations are encoded a whole vector at a time.
constexpr int64_t whole_vectors(int64_t n) { return divide_up(n, kLanes<float>) * kLanes<float>; }

// For any processor: weights become float32 in registers, activations are float32.
template <class S>
struct Widened {
  using Stored = S;
  // A lane of 32 bits holds them all, so that shifts alone take them out.
  static constexpr int kTileRows = fastrnn::kTileRows, kDepth = 4 / sizeof(S), kStep = kDepth;

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
    if constexpr (sizeof(S) == 2) return (Vec<float>)(lanes >> (16 * i) << 16);
    return __builtin_convertvector(lanes << (24 - 8 * i) >> 24, Vec<float>);
  }
};

#if defined(FASTRNN_BFLOAT16)

// Activations are rounded to bfloat16; products of pairs are added in float32.
struct Rounded {
  using Stored = BFloat16;
  static constexpr int kTileRows = 3, kDepth = 2, kStep = 4;

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
struct FixedPoint {
  using Stored = int8_t;
  static constexpr int kTileRows = 3, kDepth = 4, kStep = 4;

  static int64_t row_bytes(int64_t K) { return 2 * whole_vectors(K) + int64_t(sizeof(float)); }

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
    char *high = dst, *low = dst + whole_vectors(K);
    for (int64_t k = 0; k < K; k += kLanes<float>) {
      const Vec<float> shifted = load(x + k, valid_lanes<float>(k, K)) * inverse + kRound;
      const Bits<float> code = (Bits<float>)shifted - (Bits<float>)broadcast<float>(kRound) + 32768;
      store_bytes(high + k, code >> 8);
      store_bytes(low + k, code);
    }
    __builtin_memcpy(low + whole_vectors(K), &scale, sizeof scale);
  }

  template <int kRows, int kCols>
  static FASTRNN_INLINE void multiply(Vec<float> (&out)[kRows][kCols], Encoded rows, const Columns<int8_t>& w,
                                      int64_t K) {
    const char *high = rows.data, *low = rows.data + whole_vectors(K);
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
      float scale;
      __builtin_memcpy(&scale, low + whole_vectors(K) + r * rows.ld, sizeof scale);
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) out[r][c] = (256 * to_float(of_high[r][c]) + to_float(of_low[r][c])) * scale;
    }
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
  static FASTRNN_INLINE Vec<float> to_float(__m512i v) { return __builtin_convertvector((Bits<float>)v, Vec<float>); }
};

#endif

}  // namespace
}  // namespace fastrnn
