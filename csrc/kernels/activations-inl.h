// Activations on vectors, and their derivatives. Each is as accurate as the type that stores its result: to 4 units in
// the last place of float32 and float64, and to a sixth of the error of rounding to bfloat16.
#pragma once

#include "kernels/vec.h"

namespace fastrnn {
namespace {

// expm1(r) = r + r^2 q(r) on |r| <= ln(2)/2; q is the weighted minimax polynomial, found by iteratively reweighted
// least squares in 50 digits. Relative error of expm1: 1.4e-8 in float, 1.8e-17 in double.
template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float q[] = {0.5f, 0x1.5554bp-3f, 0x1.555486p-5f, 0x1.1228p-7f, 0x1.6d98fap-10f};
  static constexpr float log2e = 0x1.715476p+0f;
  // ln(2) in two parts: n * ln2_high is exact for |n| <= 2^9.
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
  static constexpr float round = 0x1.8p23f;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  // Below: exp is 0; 1 + expm1 is 0 to working precision.
  static constexpr float exp_zero = -104.0f, expm1_minus_one = -20.0f;
};

template <>
struct ExpConstants<double> {
  static constexpr double q[] = {0x1.0000000000005p-1,  0x1.555555555555bp-3,  0x1.55555555520c2p-5,
                                 0x1.111111110ead6p-7,  0x1.6c16c17f40d31p-10, 0x1.a01a01b476d07p-13,
                                 0x1.a019a66f3914cp-16, 0x1.71dded23febefp-19, 0x1.28a2be71a93a0p-22,
                                 0x1.af71b1b652896p-26};
  static constexpr double log2e = 0x1.71547652b82fep+0;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double round = 0x1.8p52;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double exp_zero = -746.0, expm1_minus_one = -42.0;
};

// y = n ln(2) + r with |r| <= ln(2)/2, and p = expm1(r); so exp(y) = 2^n (1 + p). NaN passes into p.
template <class T>
struct Reduced {
  Vec<T> p, n;
  Bits<T> exponent;
};

template <class T>
FASTRNN_INLINE Reduced<T> reduce(Vec<T> y) {
  using E = ExpConstants<T>;
  constexpr int degree = sizeof(E::q) / sizeof(T) - 1;
  const Vec<T> shifted = y * E::log2e + E::round;
  const Vec<T> n = shifted - E::round;
  const Vec<T> r = (y - n * E::ln2_high) - n * E::ln2_low;
  Vec<T> q = broadcast<T>(E::q[degree]);
  FASTRNN_UNROLL
  for (int i = degree - 1; i >= 0; --i) q = q * r + E::q[i];
  return {r * r * q + r, n, (Bits<T>)shifted - (Bits<T>)broadcast<T>(E::round)};
}

// 2^n for a normal result.
template <class T>
FASTRNN_INLINE Vec<T> power_of_two(Bits<T> n) {
  using E = ExpConstants<T>;
  return (Vec<T>)((n + E::exponent_bias) << E::mantissa_bits);
}

// x * 2^n, with the right result where it is denormal.
template <class T>
FASTRNN_INLINE Vec<T> scale(Vec<T> x, const Reduced<T>& by) {
#if defined(FASTRNN_AVX512)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_scalef_ps((__mmask16)-1, (__m512)x, (__m512)by.n);
  else
    return (Vec<T>)_mm512_maskz_scalef_pd((__mmask8)-1, (__m512d)x, (__m512d)by.n);
#else
  const Bits<T> half = by.exponent >> 1;
  return x * power_of_two<T>(half) * power_of_two<T>(by.exponent - half);
#endif
}

template <class T>
FASTRNN_INLINE Bits<T> sign_bit() {
  return (Bits<T>)broadcast<T>(T(-0.0));
}

template <class T>
FASTRNN_INLINE Vec<T> minus_abs(Vec<T> x) {
  return (Vec<T>)((Bits<T>)x | sign_bit<T>());
}

// 1 / (1 + exp(-x)) through exp(-|x|), which neither overflows nor loses the tail below zero.
template <class T>
FASTRNN_INLINE Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> lowest = broadcast<T>(ExpConstants<T>::exp_zero);
  Vec<T> y = minus_abs<T>(x);
  y = y < lowest ? lowest : y;
  const Reduced<T> s = reduce<T>(y);
  const Vec<T> e = scale<T>(1 + s.p, s);
  const Vec<T> one = broadcast<T>(1);
  return (x < 0 ? e : one) / (1 + e);
}

// -expm1(-2|x|) / (2 + expm1(-2|x|)) with the sign of x: no cancellation near zero, no overflow.
template <class T>
FASTRNN_INLINE Vec<T> tanh(Vec<T> x) {
  const Vec<T> lowest = broadcast<T>(ExpConstants<T>::expm1_minus_one);
  Vec<T> y = 2 * minus_abs<T>(x);
  y = y < lowest ? lowest : y;
  const Reduced<T> s = reduce<T>(y);
  const Vec<T> unit = power_of_two<T>(s.exponent);
  const Vec<T> expm1 = unit * s.p + (unit - 1);
  const Vec<T> t = expm1 / (2 + expm1);
  return (Vec<T>)(((Bits<T>)t & ~sign_bit<T>()) | ((Bits<T>)x & sign_bit<T>()));
}

#if defined(FASTRNN_BFLOAT16)

// For bfloat16: 2^f on |f| <= 1/2 to 7.5e-5, (2^f - 1) / f to 1.5e-5, both relative minimax, and a reciprocal to 2^-14.
struct CoarseConstants {
  static constexpr float exp2[] = {0.99992807f, 0.69326099f, 0.24261113f, 0.05517167f};
  static constexpr float exp2m1[] = {0.69313686f, 0.24023252f, 0.05583729f, 0.00961811f};
};

template <int n>
FASTRNN_INLINE Vec<float> polynomial(const float (&c)[n], Vec<float> x) {
  Vec<float> v = broadcast<float>(c[n - 1]);
  FASTRNN_UNROLL
  for (int i = n - 2; i >= 0; --i) v = v * x + c[i];
  return v;
}

// NaN passes.
FASTRNN_INLINE Vec<float> clamp(Vec<float> x, float most) {
  x = x > most ? broadcast<float>(most) : x;
  return x < -most ? broadcast<float>(-most) : x;
}
FASTRNN_INLINE Vec<float> coarse_reciprocal(Vec<float> x) {
  return (Vec<float>)_mm512_maskz_rcp14_ps((__mmask16)-1, (__m512)x);
}

// x * scale = n + f with |f| <= 1/2, and n in the place of an exponent.
struct CoarselyReduced {
  Vec<float> f;
  Bits<float> exponent;

  FASTRNN_INLINE CoarselyReduced(Vec<float> x, float scale) {
    using E = ExpConstants<float>;
    const Vec<float> shifted = x * scale + E::round;
    f = x * scale - (shifted - E::round);
    exponent = (Bits<float>)shifted << E::mantissa_bits;
  }
};

// The reciprocal is refined: an error in a gate near 1 grows with every step that it keeps a state for.
template <>
FASTRNN_INLINE Vec<BFloat16> sigmoid<BFloat16>(Vec<BFloat16> x) {
  const CoarselyReduced y(clamp(x, 87), -ExpConstants<float>::log2e);
  const Vec<float> a = 1 + (Vec<float>)((Bits<float>)polynomial(CoarseConstants::exp2, y.f) + y.exponent);
  const Vec<float> r = coarse_reciprocal(a);
  return r * (2 - a * r);
}

// expm1(2x) / (expm1(2x) + 2): no cancellation near zero.
template <>
FASTRNN_INLINE Vec<BFloat16> tanh<BFloat16>(Vec<BFloat16> x) {
  const CoarselyReduced y(clamp(x, 20), 2 * ExpConstants<float>::log2e);
  const Vec<float> unit = (Vec<float>)(y.exponent + (Bits<float>)broadcast<float>(1));
  const Vec<float> expm1 = unit * (y.f * polynomial(CoarseConstants::exp2m1, y.f)) + (unit - 1);
  return expm1 * coarse_reciprocal(expm1 + 2);
}

#endif

template <class T>
FASTRNN_INLINE Vec<T> relu(Vec<T> x) {
  return x < 0 ? Vec<T>{} : x;  // NaN stays NaN, as in torch.relu
}

// Derivatives by the output.
template <class T>
FASTRNN_INLINE Vec<T> d_sigmoid(Vec<T> y) {
  return y * (1 - y);
}
template <class T>
FASTRNN_INLINE Vec<T> d_tanh(Vec<T> y) {
  return 1 - y * y;
}
template <class T>
FASTRNN_INLINE Vec<T> d_relu(Vec<T> y) {
  return y > 0 ? broadcast<Real<T>>(1) : Vec<T>{};
}

}  // namespace
}  // namespace fastrnn
