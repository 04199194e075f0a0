// Which units' states stay as they were before a step: fastrnn/spec/noise.py has the rule, and the same draws.
#pragma once

#include "kernels/tiles-inl.h"

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

// Philox4x32-10 (Salmon et al., 2011) for `kCount` counters from `first` on, four words each. Both products of a round
// are lanes of one vector: 52 ns for the draws of 16 units, and 450 where each unit had a counter of its own.
template <int kCount>
FASTRNN_INLINE void philox(uint64_t key, uint64_t first, uint32_t direction, uint32_t (&words)[4 * kCount]) {
  // Words 0 of all counters and then words 2; words 1 and 3.
  uint32_t even[2 * kCount], odd[2 * kCount], k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int i = 0; i < kCount; ++i) {
    const uint64_t counter = first + uint64_t(i);
    even[i] = uint32_t(counter), odd[i] = uint32_t(counter >> 32), even[kCount + i] = direction, odd[kCount + i] = 0;
  }
  FASTRNN_UNROLL
  for (int round = 0; round < 10; ++round) {
    uint64_t product[2 * kCount];
    for (int i = 0; i < 2 * kCount; ++i) product[i] = uint64_t(i < kCount ? 0xD2511F53 : 0xCD9E8D57) * even[i];
    for (int i = 0; i < 2 * kCount; ++i) {
      const uint64_t other = product[i < kCount ? i + kCount : i - kCount];
      even[i] = uint32_t(other >> 32) ^ odd[i] ^ (i < kCount ? k0 : k1), odd[i] = uint32_t(other);
    }
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  for (int i = 0; i < kCount; ++i) {
    words[4 * i] = even[i], words[4 * i + 1] = odd[i];
    words[4 * i + 2] = even[kCount + i], words[4 * i + 3] = odd[kCount + i];
  }
}

// Of kLanes units from `unit` on, a multiple of that, in a row of y. Four units share a counter, each has a word of it.
template <class T>
FASTRNN_INLINE Stays<T> stays(const Zoneout& of, int64_t direction, int64_t row, int64_t H, int64_t unit) {
  using R = Real<T>;
  if (!of.drawn) return {broadcast<R>(R(of.h)), broadcast<R>(R(of.c))};
  constexpr int kUnits = kLanes<T>, kCount = kUnits < 4 ? 1 : kUnits / 4;
  uint32_t words[4 * kCount];
  const uint64_t counters = uint64_t(divide_up(H, 4)), first_row = uint64_t(of.first_row + row);
  philox<kCount>(of.key, first_row * counters + uint64_t(unit) / 4, uint32_t(direction), words);
  constexpr double kScale = 1 << 16;  // half of a word is compared for each state
  const int32_t of_h = int32_t(of.h * kScale + 0.5), of_c = int32_t(of.c * kScale + 0.5);
  const uint32_t* const own = words + (kUnits < 4 ? unit % 4 : 0);
  R h[kUnits], c[kUnits];
  for (int i = 0; i < kUnits; ++i) h[i] = R(int32_t(own[i] & 0xFFFF) < of_h), c[i] = R(int32_t(own[i] >> 16) < of_c);
  return {load(h), load(c)};
}

}  // namespace
}  // namespace fastrnn
