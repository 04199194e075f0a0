// Packing of the panels and left operands that register tiles and the matrix unit read.
#pragma once

#include "kernels/tiles-inl.h"

namespace fastrnn {
namespace {

// Gate panel of one group: dst[k][gate][unit] = w[gate * H + unit][k] for the units from `unit` on, zero past H. Pairs
// along k stay side by side, and are transposed as one lane.
template <class T>
FASTRNN_NOINLINE void pack_gates(T* dst, const T* w, int gates, int64_t H, int64_t K, int64_t unit, int vectors) {
  const int64_t ld = int64_t(gates) * vectors * kLanes<T>;
  for (int block = 0; block < gates * vectors; ++block) {
    const int64_t first = unit + (block % vectors) * kLanes<T>;
    const int rows = valid_lanes<T>(first, H);
    const T* src = w + ((block / vectors) * H + first) * K;
    T* out = dst + block * kPair<T> * kLanes<T>;
    constexpr int kDepth = kPair<T> * kLanes<T>;
    for (int64_t k = 0; k < K; k += kDepth) {
      const int n = int(smaller(kDepth, K - k));
      Vec<T> v[kLanes<T>];
      FASTRNN_UNROLL
      for (int i = 0; i < kLanes<T>; ++i)
        v[i] = i >= rows ? Vec<T>{} : n == kDepth ? load_pairs(src + i * K + k) : load_pairs(src + i * K + k, n);
      transpose<Real<T>>(v);
      if (n == kDepth || kMatrix<T>) {
        FASTRNN_UNROLL
        for (int i = 0; i < kLanes<T>; ++i) store_pairs(out + (k + i * kPair<T>)*ld, v[i]);
      } else {
        for (int i = 0; i * kPair<T> < n; ++i) store_pairs(out + (k + i * kPair<T>)*ld, v[i]);
      }
    }
  }
}

// Plain panel of one group: dst[k][0 .. cols) = row(k)[column ..], zero past the last of `columns` and for null rows.
template <class T, class Row>
FASTRNN_INLINE void pack_rows(T* dst, Row row, int64_t K, int64_t column, int cols, int64_t columns) {
  for (int64_t k = 0; k < whole_depth<T>(K); k += kPair<T>) {
    const T* src = k < K ? row(k) : nullptr;
    const T* partner = kPair<T> == 2 && k + 1 < K ? row(k + 1) : nullptr;
    for (int c = 0; c < cols; ++c, dst += kPair<T> * kLanes<T>) {
      const int64_t at = column + c * kLanes<T>;
      const int n = valid_lanes<T>(at, columns);
      if constexpr (kPair<T> == 2)
        store_pairs(dst, interleave(src ? src + at : nullptr, partner ? partner + at : nullptr, n));
      else
        store(dst, src ? load(src + at, n) : Vec<T>{});
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
