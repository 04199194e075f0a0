#if defined(__x86_64__)
#include "kernels/arguments.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define FASTRNN_VECTOR_BYTES 32
#include "kernels/table-inl.h"

namespace fastrnn {
extern constinit const InstructionSet kAvx2;
constinit const InstructionSet kAvx2 = instruction_set("avx2");
}  // namespace fastrnn

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
