// Packing of the panels and left operands that register tiles and the matrix unit read: of Q, from tensors of T, which
// is Q or rounded to it.
#pragma once

#include "kernels/tiles-inl.h"

namespace fastrnn {
namespace {

// Whether products take tensors of T rounded.
template <class T, class Q>
constexpr bool kRounds = !std::is_same_v<T, Q>;

// The first n values of those that a vector of products' operands holds.
template <class Q, class T>
FASTRNN_INLINE Vec<Q> load_pairs_as(const T* p, int n) {
  if constexpr (!kRounds<T, Q>)
    return n == kPair<Q> * kLanes<Q> ? load_pairs(p) : load_pairs(p, n);
  else
    return round_pairs(p, n);
}

template <class Q, class T>
FASTRNN_INLINE void copy_row(Q* to, const T* from, int64_t width) {
  if constexpr (!kRounds<T, Q>) {
    __builtin_memcpy(to, from, width * sizeof(T));
  } else {
    for (int64_t c = 0; c < width; c += kLanes<T>) {
      const int n = valid_lanes<T>(c, width);
      store(to + c, load(from + c, n), n);
    }
  }
}

// With a factor for each value.
template <class Q, class T>
FASTRNN_INLINE void copy_masked(Q* to, const T* from, const T* mask, int64_t width) {
  for (int64_t c = 0; c < width; c += kLanes<T>) {
    const int n = valid_lanes<T>(c, width);
    store(to + c, load(from + c, n) * load(mask + c, n), n);
  }
}

// Gate panel of one group: dst[k][gate][unit] = w[gate * H + unit][k] for the units from `unit` on, zero past H. Pairs
// along k stay side by side, and are transposed as one lane.
template <class Q, class T>
FASTRNN_NOINLINE void pack_gates(Q* dst, const T* w, int gates, int64_t H, int64_t K, int64_t unit, int vectors) {
  const int64_t ld = int64_t(gates) * vectors * kLanes<Q>;
  for (int block = 0; block < gates * vectors; ++block) {
    const int64_t first = unit + (block % vectors) * kLanes<Q>;
    const int rows = valid_lanes<Q>(first, H);
    const T* src = w + ((block / vectors) * H + first) * K;
    Q* out = dst + block * kPair<Q> * kLanes<Q>;
    constexpr int kDepth = kPair<Q> * kLanes<Q>;
    for (int64_t k = 0; k < K; k += kDepth) {
      const int n = int(smaller(kDepth, K - k));
      Vec<Q> v[kLanes<Q>];
      FASTRNN_UNROLL
      for (int i = 0; i < kLanes<Q>; ++i) v[i] = i >= rows ? Vec<Q>{} : load_pairs_as<Q>(src + i * K + k, n);
      transpose<Real<Q>>(v);
      if (n == kDepth || kMatrix<Q>) {
        FASTRNN_UNROLL
        for (int i = 0; i < kLanes<Q>; ++i) store_pairs(out + (k + i * kPair<Q>)*ld, v[i]);
      } else {
        for (int i = 0; i * kPair<Q> < n; ++i) store_pairs(out + (k + i * kPair<Q>)*ld, v[i]);
      }
    }
  }
}

// Plain panel of one group: dst[k][0 .. cols) = row(k)[column ..], zero past the last of `columns` and for null rows.
template <class Q, class Row>
FASTRNN_INLINE void pack_rows(Q* dst, Row row, int64_t K, int64_t column, int cols, int64_t columns) {
  for (int64_t k = 0; k < whole_depth<Q>(K); k += kPair<Q>) {
    const auto* src = k < K ? row(k) : nullptr;
    const auto* partner = kPair<Q> == 2 && k + 1 < K ? row(k + 1) : nullptr;
    for (int c = 0; c < cols; ++c, dst += kPair<Q> * kLanes<Q>) {
      const int64_t at = column + c * kLanes<Q>;
      const int n = valid_lanes<Q>(at, columns);
      if constexpr (kPair<Q> == 2)
        store_pairs(dst, interleave(src ? src + at : nullptr, partner ? partner + at : nullptr, n));
      else
        store(dst, src ? load(src + at, n) : Vec<Q>{});
    }
  }
}

// Left operand of a weight gradient: dst[block][k][kTileRows] = src[k * ld + columns of the block], zero past the end.
template <class T>
FASTRNN_NOINLINE void pack_columns(T* dst, const T* src, int64_t ld, int64_t K, Range columns) {
  static_assert(kPair<T> == 1 || kTileRows == 6, "store_first_pairs writes 6");
  for (int64_t c = columns.begin; c < columns.end; c += kTileRows, dst += whole_pairs<T>(K) * kTileRows) {
    if constexpr (kPair<T> == 2) {
      const int n = int(smaller(kTileRows, columns.end - c));
      for (int64_t k = 0; k < K; k += 2)
        store_first_pairs(dst + k * kTileRows, src + k * ld + c, k + 1 < K ? src + (k + 1) * ld + c : nullptr, n);
    } else if (c + kTileRows <= columns.end) {
      for (int64_t k = 0; k < K; ++k) __builtin_memcpy(dst + k * kTileRows, src + k * ld + c, kTileRows * sizeof(T));
    } else {
      for (int64_t k = 0; k < K; ++k)
        for (int i = 0; i < kTileRows; ++i) dst[k * kTileRows + i] = c + i < columns.end ? src[k * ld + c + i] : T(0);
    }
  }
}

}  // namespace
}  // namespace fastrnn
