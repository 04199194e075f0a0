// Runs the kernels of a layer on a team of threads.
#pragma once

#include "kernels/arguments.h"

namespace fastrnn {

// For BFloat16 only where instruction_set().bf16 is.
template <class T>
void run_forward(CellKind kind, const ForwardArgs<T>& args, int threads);
template <class T>
void run_backward(CellKind kind, const BackwardArgs<T>& args, int threads);

// For weights frozen as S: BFloat16 or int8_t.
template <class S>
void run_frozen(CellKind kind, const FrozenArgs& args, int threads);

}  // namespace fastrnn
