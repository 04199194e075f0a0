// What the machine can do at most: the rate of fused multiply-adds, and of reading a buffer.
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

#if defined(FASTRNN_MATRIX)
template <>
FASTRNN_NOINLINE double multiply_adds<BFloat16>(int64_t rounds) {
  const TilesInUse use(true);
  Tiles tiles;
  for_constants<8>([&]<int i>() { tiles.template zero<i>(); });
  for (int64_t n = 0; n < rounds; ++n) {
    for_constants<4>([&]<int i>() { tiles.template multiply_add<i, 4 + i / 2, 6 + i % 2>(); });
  }
  return double(rounds) * 4 * kTileHeight * kTileWidth * kTileDepth;
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
