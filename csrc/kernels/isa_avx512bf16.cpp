// Products of bfloat16 and of frozen weights alone: in float32 and float64 a processor that has these instructions runs
// the AVX-512 kernels.
#if defined(__x86_64__)
#include "kernels/arguments.h"

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define FASTRNN_AVX512
#define FASTRNN_BFLOAT16
#define FASTRNN_VECTOR_BYTES 64
#include "kernels/table-inl.h"

namespace fastrnn {
extern constinit const ShortKernels kAvx512Bf16;
constinit const ShortKernels kAvx512Bf16 = short_kernels<Rounded, FixedPoint>();
}  // namespace fastrnn

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
