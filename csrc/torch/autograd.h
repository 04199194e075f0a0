// The operators where a gradient may be recorded: on tensors of any device, by the implementation for that device.
//
// They are nodes of autograd's graph as PyTorch's own operators have, and no torch::autograd::Function, which the
// transforms of torch.func refuse.
#pragma once

#include "torch/operators.h"

namespace fastrnn {

// Saves for backward where it will be needed, whatever `save` says; that decides only whether `saved` is returned.
// With `recompute` nothing is saved, and backward runs forward once more.
decltype(layer_forward) layer_forward_autograd;

// Differentiable by layer_double_backward.
decltype(layer_backward) layer_backward_autograd;

}  // namespace fastrnn
