// The operators where a gradient may be recorded: on tensors of any device, by the implementation for that device.
//
// They are nodes of autograd's graph as PyTorch's own operators have, and no torch::autograd::Function, which the
// transforms of torch.func refuse.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <string_view>
#include <tuple>

#include "torch/operators.h"

namespace fastrnn {

// Saves for backward where it will be needed, whatever `save` says; that decides only whether `saved` is returned.
// With `recompute` nothing is saved, and backward runs forward once more.
std::tuple<at::Tensor, Tensors, at::Tensor> layer_forward_autograd(
    const at::Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
    const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
    bool save, const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& h_reset,
    const OptionalTensor& c_reset, bool every_state, bool recompute);

// Differentiable by layer_double_backward.
Tensors layer_backward_autograd(const OptionalTensor& dy, const OptionalTensors& dstate, const at::Tensor& x,
                                const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
                                const at::Tensor& y, const at::Tensor& saved, const OptionalTensor& batch_sizes,
                                std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
                                const c10::List<bool>& needed, int64_t samples, const OptionalTensor& lengths,
                                const OptionalTensor& reset, const OptionalTensor& h_reset,
                                const OptionalTensor& c_reset);

}  // namespace fastrnn
