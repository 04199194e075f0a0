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
std::tuple<at::Tensor, Tensors, at::Tensor> layer_forward_autograd(
    const at::Tensor& x, const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
    at::TensorList weights, const std::optional<at::Tensor>& batch_sizes, std::string_view cell, int64_t directions,
    bool has_bias, bool batch_first, bool save);

// Differentiable by layer_double_backward.
Tensors layer_backward_autograd(const std::optional<at::Tensor>& dy, const OptionalTensors& dstate, const at::Tensor& x,
                                const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
                                at::TensorList weights, const at::Tensor& y, const at::Tensor& saved,
                                const std::optional<at::Tensor>& batch_sizes, std::string_view cell, int64_t directions,
                                bool has_bias, bool batch_first, const c10::List<bool>& needed, int64_t samples);

}  // namespace fastrnn
