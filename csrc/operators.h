// The operators of fastrnn/ops.py on the CPU.
#pragma once

#include <ATen/ATen.h>

#include <string_view>
#include <tuple>
#include <vector>

#include "layer.h"

namespace fastrnn {

// The cells that are compiled in, by the names of fastrnn/spec.py.
std::vector<std::string> cell_names();
CellKind cell_kind(std::string_view name);

std::tuple<at::Tensor, std::vector<at::Tensor>, at::Tensor> layer_forward(const at::Tensor& x, at::TensorList state,
                                                                          at::TensorList weights,
                                                                          const std::optional<at::Tensor>& batch_sizes,
                                                                          std::string_view cell, int64_t directions,
                                                                          bool has_bias, bool batch_first, bool save);

std::tuple<at::Tensor, std::vector<at::Tensor>> frozen_forward(const at::Tensor& x, at::TensorList state,
                                                               at::TensorList weights,
                                                               const std::optional<at::Tensor>& batch_sizes,
                                                               std::string_view cell, int64_t directions, bool has_bias,
                                                               bool batch_first);

std::vector<at::Tensor> layer_backward(const std::optional<at::Tensor>& dy,
                                       const c10::List<std::optional<at::Tensor>>& dstate, const at::Tensor& x,
                                       at::TensorList state, at::TensorList weights, const at::Tensor& y,
                                       const at::Tensor& saved, const std::optional<at::Tensor>& batch_sizes,
                                       std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
                                       const c10::List<bool>& needed);

}  // namespace fastrnn
