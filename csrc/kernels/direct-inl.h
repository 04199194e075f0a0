// Products with weights as they lie, nothing packed: dot products along their rows.
#pragma once

#include "kernels/tiles-inl.h"

namespace fastrnn {
namespace {

// Left rows and a weight as it lies, [G*H, K].
template <class T>
struct DirectOperand {
  const T* data;  // null: zeros
  int64_t ld;
  const T* weight;
  int64_t K;
};

// A weight as it lies is read in kStreams rows side by side: 4 streams come from L2 as fast as one (117 GB/s on Zen 4),
// 16 at 90. What has been read serves kDirectRows rows on the left.
template <class T>
constexpr int kStreams = kLanes<T> < 4 ? kLanes<T> : 4;
#if defined(FASTRNN_AVX512)
constexpr int kDirectRows = 4;
#else
constexpr int kDirectRows = 2;
#endif

// v[r][i] += the products, not yet summed over the lanes, of row r of a with row i of a weight, of which `rows` are
// left. Past the last it is that one again: nobody stores those lanes. kWhole: no part of a vector is left over. With
// `fetch` the next rows of the weight are asked for: where it lies in memory, short streams alone take 1.4 to 1.7 times
// as long.
template <class T, bool kWhole, int kRows>
FASTRNN_INLINE void add_dot_products(Vec<T> (&v)[kRows][kStreams<T>], const T* a, int64_t lda, const T* weight,
                                     int64_t rows, int64_t K, bool fetch) {
  constexpr int kStep = kPair<T> * kLanes<T>, kIntoL2 = 2;
  const auto add = [&](int64_t k, auto load_operand) __attribute__((always_inline)) {
    Vec<T> x[kRows];
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = load_operand(a + r * lda + k);
    FASTRNN_UNROLL
    for (int i = 0; i < kStreams<T>; ++i) {
      if (fetch) __builtin_prefetch(weight + (i + kStreams<T>)*K + k, 0, kIntoL2);
      const Vec<T> w = load_operand(weight + (kWhole ? i : smaller(i, rows - 1)) * K + k);
      FASTRNN_UNROLL
      for (int r = 0; r < kRows; ++r) multiply_add<T>(v[r][i], x[r], w);
    }
  };
  int64_t k = 0;
  for (; k + kStep <= K; k += kStep) add(k, [](const T* p) { return load_pairs(p); });
  if (!kWhole && k < K) add(k, [n = int(K - k)](const T* p) { return load_pairs(p, n); });
}

// out[r][sum][unit] += x W_ih^T + h W_hh^T for the units from `unit` on, from weights as they lie.
template <class T, class Gates, bool kWhole>
FASTRNN_NOINLINE void direct_tile(Real<T>* out, int rows, int vectors, const DirectOperand<T>& x,
                                  const DirectOperand<T>& h, int64_t H, int64_t unit) {
  constexpr int kGroups = kLanes<Real<T>> / kStreams<T>;
  for (int gate = 0; gate < Gates::kGates; ++gate) {
    const bool added = Gates::x_sum(gate) == Gates::h_sum(gate);
    for (int u = 0; u < vectors; ++u) {
      Vec<T> x_sums[kBlockRows][kGroups], sums[kBlockRows][kGroups];
      for (int group = 0; group < kGroups; ++group) {
        const int64_t column = smaller(unit + u * kLanes<T> + group * kStreams<T>, H - 1), left = H - column;
        const T* x_weight = x.weight + (gate * H + column) * x.K;
        const T* h_weight = h.weight + (gate * H + column) * h.K;
        const auto add_rows = [&]<int kRows>(int r) __attribute__((always_inline)) {
          Vec<T> v[kRows][kStreams<T>] = {};
          const auto close = [&](Vec<T>(&to)[kBlockRows][kGroups]) __attribute__((always_inline)) {
            FASTRNN_UNROLL
            for (int i = 0; i < kRows; ++i) to[r + i][group] = sum_each<Real<T>>(v[i]);
          };
          // A single row reads so little at a time that asking takes longer than it saves.
          const bool fetch = kRows > 1 && r == 0;
          add_dot_products<T, kWhole>(v, x.data + r * x.ld, x.ld, x_weight, left, x.K, fetch);
          if (!added) {
            close(x_sums);
            FASTRNN_UNROLL
            for (int i = 0; i < kRows * kStreams<T>; ++i) v[i / kStreams<T>][i % kStreams<T>] = Vec<T>{};
          }
          if (h.data) add_dot_products<T, kWhole>(v, h.data + r * h.ld, h.ld, h_weight, left, h.K, fetch);
          close(sums);
        };
        int r = 0;
        for (; r + kDirectRows <= rows; r += kDirectRows) add_rows.template operator()<kDirectRows>(r);
        for (; r < rows; ++r) add_rows.template operator()<1>(r);
      }
      for (int r = 0; r < rows; ++r) {
        const auto add_to = [&](int sum, const Vec<T>(&groups)[kGroups]) __attribute__((always_inline)) {
          Real<T>* at = out + ((int64_t(r) * Gates::kSums + sum) * vectors + u) * kLanes<T>;
          store(at, load(at) + join<Real<T>>(groups));
        };
        if (!added) add_to(Gates::x_sum(gate), x_sums[r]);
        add_to(Gates::h_sum(gate), sums[r]);
      }
    }
  }
}

}  // namespace
}  // namespace fastrnn
