// Which units' states stay as they were before a step: fastrnn/spec/noise.py has the rule, and the same draws.
#pragma once

#include "kernels/arguments.h"
#include "kernels/vec.h"

namespace fastrnn {
namespace {

// 1 for a state that stays, 0 for a new one, or the share of the old one in what is expected.
template <class T>
struct Stays {
  Vec<T> h, c;
};

template <class T>
FASTRNN_INLINE Vec<T> mixed(Vec<T> stays, Vec<T> before, Vec<T> after) {
  return stays * before + (1 - stays) * after;
}

// The first two words of Philox4x32-10 (Salmon et al., 2011) for `kCount` counters from `first` on. Loops over arrays,
// of which compilers make products of even and odd lanes.
template <int kCount>
FASTRNN_INLINE void philox(uint64_t key, uint64_t first, uint32_t direction, uint32_t (&c0)[kCount],
                           uint32_t (&c1)[kCount]) {
  uint32_t c2[kCount], c3[kCount], k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int i = 0; i < kCount; ++i) {
    const uint64_t counter = first + uint64_t(i);
    c0[i] = uint32_t(counter), c1[i] = uint32_t(counter >> 32), c2[i] = direction, c3[i] = 0;
  }
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kCount; ++i) {
      const uint64_t product0 = uint64_t(0xD2511F53) * c0[i], product1 = uint64_t(0xCD9E8D57) * c2[i];
      c0[i] = uint32_t(product1 >> 32) ^ c1[i] ^ k0, c1[i] = uint32_t(product1);
      c2[i] = uint32_t(product0 >> 32) ^ c3[i] ^ k1, c3[i] = uint32_t(product0);
    }
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
}

// Of kLanes units from `unit` on, in a row of y.
template <class T>
FASTRNN_INLINE Stays<T> stays(const Zoneout& of, int64_t direction, int64_t row, int64_t H, int64_t unit) {
  using R = Real<T>;
  if (!of.drawn) return {broadcast<R>(R(of.h)), broadcast<R>(R(of.c))};
  constexpr int kCount = kLanes<T>;
  uint32_t word0[kCount], word1[kCount];
  philox(of.key, uint64_t(of.first_row + row) * uint64_t(H) + uint64_t(unit), uint32_t(direction), word0, word1);
  constexpr double kScale = 1 << 24;  // 24 bits of a word are compared
  const int32_t of_h = int32_t(of.h * kScale + 0.5), of_c = int32_t(of.c * kScale + 0.5);
  R h[kCount], c[kCount];
  for (int i = 0; i < kCount; ++i) h[i] = R(int32_t(word0[i] >> 8) < of_h), c[i] = R(int32_t(word1[i] >> 8) < of_c);
  return {load(h), load(c)};
}

}  // namespace
}  // namespace fastrnn
