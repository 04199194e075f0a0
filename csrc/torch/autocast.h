// layer_forward under autocast, by the rule of the Python package: all tensors but those in float64 take its dtype.
//
// The package casts before it calls, from Python. A traced or a scripted program relies on this.
#pragma once

#include "torch/operators.h"

namespace fastrnn {

std::tuple<at::Tensor, Tensors, at::Tensor> layer_forward_autocast(
    const at::Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
    const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
    bool save, const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& h_reset,
    const OptionalTensor& c_reset, bool every_state, bool recompute);

}  // namespace fastrnn
