// Vectors of bfloat16 in memory: widened by loads, rounded to nearest by stores. Included by vec.h inside its
// namespace.

FASTRNN_INLINE Bits<float> zero_extend(__m256i bits) {
  return (Bits<float>)_mm512_maskz_cvtepu16_epi32((__mmask16)-1, bits);
}
FASTRNN_INLINE Vec<float> widen(__m256i bits) { return (Vec<float>)(zero_extend(bits) << 16); }
FASTRNN_INLINE __m256i narrow(Vec<float> v) { return (__m256i)_mm512_cvtneps_pbh((__m512)v); }

FASTRNN_INLINE Vec<float> load(const BFloat16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
FASTRNN_INLINE Vec<float> load_first(const BFloat16* p, int n) {
  return widen(_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
}
FASTRNN_INLINE void store(BFloat16* p, Vec<float> v) { _mm256_storeu_si256((__m256i*)p, narrow(v)); }
FASTRNN_INLINE void store_first(BFloat16* p, Vec<float> v, int n) {
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), narrow(v));
}

// Operands of products, as they lie: a lane holds two values that follow each other in a sum.
FASTRNN_INLINE Vec<float> load_pairs(const BFloat16* p) { return (Vec<float>)_mm512_loadu_si512(p); }
FASTRNN_INLINE Vec<float> load_pairs(const BFloat16* p, int n) {
  return (Vec<float>)_mm512_maskz_loadu_epi16((__mmask32)((uint64_t(1) << n) - 1), p);
}
FASTRNN_INLINE void store_pairs(BFloat16* p, Vec<float> v) { _mm512_storeu_si512(p, (__m512i)v); }
// The same of n values of float32, rounded.
FASTRNN_INLINE Vec<float> round_pairs(const float* p, int n) {
  constexpr int kHalf = kLanes<float>;
  const Vec<float> low = n < kHalf ? load_first(p, n) : load(p);
  const Vec<float> high = n < 2 * kHalf ? load_first(p + kHalf, n < kHalf ? 0 : n - kHalf) : load(p + kHalf);
  return (Vec<float>)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}
FASTRNN_INLINE Vec<float> broadcast_pair(const BFloat16* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return (Vec<float>)_mm512_set1_epi32(pair);
}
// The last value of an odd number; its partner is zero.
FASTRNN_INLINE Vec<float> broadcast_last(const BFloat16* p) { return (Vec<float>)_mm512_set1_epi32(p->bits); }

// Pairs of values from two rows, the first n of each; a null row is zeros.
FASTRNN_INLINE Vec<float> interleave(const BFloat16* first, const BFloat16* second, int n) {
  const __mmask16 mask = (__mmask16)((1u << n) - 1);
  const __m256i a = first ? _mm256_maskz_loadu_epi16(mask, first) : _mm256_setzero_si256();
  const __m256i b = second ? _mm256_maskz_loadu_epi16(mask, second) : _mm256_setzero_si256();
  return (Vec<float>)(zero_extend(a) | zero_extend(b) << 16);
}

FASTRNN_INLINE Vec<float> interleave(const float* first, const float* second, int n) {
  const auto rounded = [n](const float* p) {
    return p ? zero_extend(narrow(n == kLanes<float> ? load(p) : load_first(p, n))) : Bits<float>{};
  };
  return (Vec<float>)(rounded(first) | rounded(second) << 16);
}

// Two products a lane, added in float32.
template <>
FASTRNN_INLINE void multiply_add<BFloat16>(Vec<float>& sum, Vec<float> a, Vec<float> b) {
  sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// dst[i] = (first[i], second[i]) for 6 values, those from the n-th on zero: columns of a left operand.
FASTRNN_INLINE void store_first_pairs(BFloat16* dst, const BFloat16* first, const BFloat16* second, int n) {
  const __mmask8 mask = (__mmask8)((1u << n) - 1);
  const __m128i a = _mm_maskz_loadu_epi16(mask, first);
  const __m128i b = second ? _mm_maskz_loadu_epi16(mask, second) : _mm_setzero_si128();
  _mm_storeu_si128((__m128i*)dst, _mm_unpacklo_epi16(a, b));
  _mm_storel_epi64((__m128i*)(dst + 8), _mm_unpackhi_epi16(a, b));
}
