// Chooses the instruction set, once.
#pragma once

#include <string>
#include <vector>

#include "kernels/arguments.h"

namespace fastrnn {

// The one in use: the widest that this processor runs, or a narrower one forced by FASTRNN_CPU_ISA or force_isa.
const InstructionSet& instruction_set();
// Names of the instruction sets that are compiled in and that this processor runs, narrowest first.
std::vector<std::string> runnable_isas();
// Throws std::invalid_argument where the name is not among runnable_isas().
void force_isa(const std::string& name);

// Of the instruction set in use, for tensors of T whose products take Q; for BFloat16 only where it has bf16.
template <class T, class Q = T>
const Kernels<T>& kernels();
// The same for weights frozen as S: BFloat16, int8_t or, with FASTRNN_INFERENCE, float.
template <class S>
const FrozenKernels<S>& frozen_kernels();

}  // namespace fastrnn
