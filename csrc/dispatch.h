// Chooses the instruction set once, and runs the kernels on a team of threads.
#pragma once

#include <string>
#include <vector>

#include "layer.h"

namespace fastrnn {

// The one in use: the widest that this processor runs, or a narrower one forced by FASTRNN_CPU_ISA or force_isa.
const InstructionSet& instruction_set();
// Names of the instruction sets that are compiled in and that this processor runs, narrowest first.
std::vector<std::string> runnable_isas();
// Throws std::invalid_argument where the name is not among runnable_isas().
void force_isa(const std::string& name);

bool built_with_openmp();

// For BFloat16 only where instruction_set().bf16 is.
template <class T>
void run_forward(CellKind kind, const ForwardArgs<T>& args, int threads);
template <class T>
void run_backward(CellKind kind, const BackwardArgs<T>& args, int threads);

// Of the instruction set in use, for weights frozen as S: BFloat16 or int8_t.
template <class S>
const FrozenKernels<S>& frozen_kernels();
template <class S>
void run_frozen(CellKind kind, const FrozenArgs& args, int threads);

template <class T>
double peak_flops(int threads);                     // FLOP/s, two per fused multiply-add
double read_bandwidth(int64_t bytes, int threads);  // bytes/s over all threads, each reading its own buffer

}  // namespace fastrnn
