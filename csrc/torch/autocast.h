// layer_forward under autocast, by the rule of the Python package: all tensors but those in float64 take its dtype.
//
// The package casts before it calls, from Python. A traced or a scripted program relies on this.
#pragma once

#include "torch/operators.h"

namespace fastrnn {

std::tuple<at::Tensor, Tensors, at::Tensor> layer_forward_autocast(
    const at::Tensor& x, const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
    at::TensorList weights, const std::optional<at::Tensor>& batch_sizes, std::string_view cell, int64_t directions,
    bool has_bias, bool batch_first, bool save);

}  // namespace fastrnn
