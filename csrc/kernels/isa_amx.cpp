// Products of bfloat16 and of frozen weights on the matrix unit. The rest is AVX-512's.
#if defined(__x86_64__)
#include "kernels/arguments.h"

// The name of their table; isa_software_tiles.cpp compiles this file too.
#if !defined(FASTRNN_MATRIX_KERNELS)
#define FASTRNN_MATRIX_KERNELS kAmx
#endif

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define FASTRNN_AVX512
#define FASTRNN_BFLOAT16
#define FASTRNN_MATRIX
#define FASTRNN_VECTOR_BYTES 64
#include "kernels/table-inl.h"

namespace fastrnn {
extern constinit const ShortKernels FASTRNN_MATRIX_KERNELS;
constinit const ShortKernels FASTRNN_MATRIX_KERNELS = short_kernels<RoundedOnTiles, FixedPointOnTiles>();
}  // namespace fastrnn

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
