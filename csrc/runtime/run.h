// Runs the kernels of a layer on a team of threads.
#pragma once

#include <span>

#include "kernels/arguments.h"

namespace fastrnn {

// Layers of the same sizes, one after another on all threads, or side by side on one each where there are as many.
// Products take T as it is or, of float, rounded: Q is BFloat16. That only where instruction_set().bf16 is, and not for
// a layer that takes_weights_as_they_lie.
template <class T, class Q = T>
void run_forward(CellKind kind, std::span<const ForwardArgs<T>> layers, int threads);
template <class T, class Q = T>
void run_backward(CellKind kind, std::span<const BackwardArgs<T>> layers, int threads);
template <class T, class Q = T>
void run_forward(CellKind kind, const ForwardArgs<T>& layer, int threads) {
  run_forward<T, Q>(kind, std::span(&layer, 1), threads);
}
template <class T, class Q = T>
void run_backward(CellKind kind, const BackwardArgs<T>& layer, int threads) {
  run_backward<T, Q>(kind, std::span(&layer, 1), threads);
}

// For weights frozen as S: BFloat16 or int8_t.
template <class S>
void run_frozen(CellKind kind, const FrozenArgs& args, int threads);

}  // namespace fastrnn
