#if defined(__x86_64__)
#include "kernels/arguments.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif

#define FASTRNN_AVX512
#define FASTRNN_VECTOR_BYTES 64
#include "kernels/table-inl.h"

namespace fastrnn {
extern constinit const InstructionSet kAvx512;
constinit const InstructionSet kAvx512 = instruction_set("avx512");
}  // namespace fastrnn

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
