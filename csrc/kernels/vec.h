// SIMD vectors of FASTRNN_VECTOR_BYTES.
//
// Included once by each isa_*.cpp, after its target pragma; everything lives in an anonymous namespace, so that the
// linker cannot merge code compiled for different instruction sets. GCC vector extensions carry the arithmetic;
// intrinsics appear only for what they cannot say: masked loads and stores.
#pragma once

#include <stdint.h>

#include "kernels/arguments.h"

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#error "fastrnn needs GCC 12 or newer, for __builtin_shufflevector"
#endif

#if defined(FASTRNN_AVX512)
#include <immintrin.h>
#endif

#define FASTRNN_INLINE inline __attribute__((always_inline))
#define FASTRNN_NOINLINE __attribute__((noinline))
#define FASTRNN_UNROLL _Pragma("GCC unroll 32")

namespace fastrnn {
namespace {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float Type __attribute__((vector_size(FASTRNN_VECTOR_BYTES)));
  typedef int32_t Bits __attribute__((vector_size(FASTRNN_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  typedef double Type __attribute__((vector_size(FASTRNN_VECTOR_BYTES)));
  typedef int64_t Bits __attribute__((vector_size(FASTRNN_VECTOR_BYTES)));
};

// Vec<T> is what values of T are computed in, Real<T> its lanes. Loading and storing convert.
template <>
struct Simd<BFloat16> : Simd<float> {};

template <class T>
using Vec = typename Simd<T>::Type;
template <class T>
using Bits = typename Simd<T>::Bits;

template <class T>
constexpr int kLanes = FASTRNN_VECTOR_BYTES / sizeof(Real<T>);

template <class T>
FASTRNN_INLINE Vec<T> broadcast(T x) {
  return x - Vec<T>{};  // not x + 0, which would lose the sign of -0
}

template <class T>
FASTRNN_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
FASTRNN_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

#if defined(FASTRNN_AVX512)

FASTRNN_INLINE Vec<float> load_first(const float* p, int n) {
  return (Vec<float>)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
FASTRNN_INLINE Vec<double> load_first(const double* p, int n) {
  return (Vec<double>)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
}
FASTRNN_INLINE void store_first(float* p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
FASTRNN_INLINE void store_first(double* p, Vec<double> v, int n) {
  _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
}

#else

template <class T>
FASTRNN_INLINE Vec<T> load_first(const T* p, int n) {
  Vec<T> v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <class T>
FASTRNN_INLINE void store_first(T* p, Vec<T> v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}

#endif

// Values of T that one lane of a product's operand holds, and that it multiplies and adds at once: two of bfloat16.
template <class T>
constexpr int kPair = sizeof(Real<T>) / sizeof(T);
template <class T>
constexpr int64_t whole_pairs(int64_t n) {
  return (n + kPair<T> - 1) / kPair<T> * kPair<T>;
}

// Whether products of T may run on a matrix unit. Panels for it are padded with zeros to a whole depth of its tiles.
#if defined(FASTRNN_MATRIX)
template <class T>
constexpr bool kMatrix = std::is_same_v<T, BFloat16>;
#else
template <class T>
constexpr bool kMatrix = false;
#endif
template <class T>
constexpr int64_t whole_depth(int64_t n) {
  constexpr int64_t kDepth = kMatrix<T> ? 64 / sizeof(T) : kPair<T>;
  return (n + kDepth - 1) / kDepth * kDepth;
}

template <class T>
FASTRNN_INLINE Vec<T> load_pairs(const T* p) {
  return load(p);
}
template <class T>
FASTRNN_INLINE Vec<T> load_pairs(const T* p, int n) {
  return load_first(p, n);
}
template <class T>
FASTRNN_INLINE void store_pairs(T* p, Vec<T> v) {
  store(p, v);
}
template <class T>
FASTRNN_INLINE Vec<T> broadcast_pair(const T* p) {
  return broadcast<T>(*p);
}
template <class T>
FASTRNN_INLINE Vec<T> broadcast_last(const T* p) {
  return broadcast<T>(*p);
}
template <class T>
FASTRNN_INLINE void multiply_add(Vec<T>& sum, Vec<T> a, Vec<T> b) {
  sum += a * b;
}

#if defined(FASTRNN_BFLOAT16)
#include "kernels/bfloat16-inl.h"
#endif

// The first n lanes, 0 <= n <= kLanes; the others read as zero and are not written. The branch is for speed: whole
// vectors are the rule, and masked stores are slow on some processors.
template <class T>
FASTRNN_INLINE Vec<T> load(const T* p, int n) {
  return n == kLanes<T> ? load(p) : load_first(p, n);
}
template <class T>
FASTRNN_INLINE void store(T* p, Vec<T> v, int n) {
  if (n == kLanes<T>)
    store(p, v);
  else
    store_first(p, v, n);
}

// Interleaves the halves of a and b named by kHalf: a0 b0 a1 b1 ...
template <class T, int kHalf, int... kLane>
FASTRNN_INLINE Vec<T> zip(Vec<T> a, Vec<T> b, std::integer_sequence<int, kLane...>) {
  constexpr int n = sizeof...(kLane);
  return __builtin_shufflevector(a, b, (kHalf * n / 2 + kLane / 2 + (kLane % 2) * n)...);
}
template <class T, int kHalf>
FASTRNN_INLINE Vec<T> zip(Vec<T> a, Vec<T> b) {
  return zip<T, kHalf>(a, b, std::make_integer_sequence<int, kLanes<T>>());
}

// Transposes kLanes x kLanes values: log2(kLanes) perfect shuffles of all rows.
template <class T>
FASTRNN_INLINE void transpose(Vec<T> (&v)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  FASTRNN_UNROLL
  for (int done = 1; done < n; done *= 2) {
    Vec<T> w[n];
    FASTRNN_UNROLL
    for (int i = 0; i < n / 2; ++i) {
      w[2 * i] = zip<T, 0>(v[i], v[i + n / 2]);
      w[2 * i + 1] = zip<T, 1>(v[i], v[i + n / 2]);
    }
    FASTRNN_UNROLL
    for (int i = 0; i < n; ++i) v[i] = w[i];
  }
}

// Sums of each of n vectors over its lanes, as far as they meet: lane j * n + i is the j-th part of the sum of v[i]. A
// transposition whose shuffles are added as they meet.
template <class T, int n>
FASTRNN_INLINE Vec<T> sum_each(Vec<T> (&v)[n]) {
  FASTRNN_UNROLL
  for (int half = n / 2; half >= 1; half /= 2) {
    FASTRNN_UNROLL
    for (int i = 0; i < half; ++i) v[i] = zip<T, 0>(v[i], v[i + half]) + zip<T, 1>(v[i], v[i + half]);
  }
  return v[0];
}

// Adds neighbouring blocks of kBlock lanes, those of a and then those of b.
template <class T, int kBlock, int... kLane>
FASTRNN_INLINE Vec<T> add_blocks(Vec<T> a, Vec<T> b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (kLane / kBlock * 2 * kBlock + kLane % kBlock)...) +
         __builtin_shufflevector(a, b, (kLane / kBlock * 2 * kBlock + kLane % kBlock + kBlock)...);
}

// The whole sums of kLanes vectors, from what sum_each gave for each group of them.
template <class T, int kBlock = kLanes<T> / 2, int kGroups>
FASTRNN_INLINE Vec<T> join(const Vec<T> (&group)[kGroups]) {
  if constexpr (kGroups == 1) {
    return group[0];
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes<T>>();
    Vec<T> pair[kGroups / 2];
    FASTRNN_UNROLL
    for (int i = 0; i < kGroups / 2; ++i) pair[i] = add_blocks<T, kBlock>(group[2 * i], group[2 * i + 1], lanes);
    return join<T, kBlock / 2>(pair);
  }
}

}  // namespace
}  // namespace fastrnn
