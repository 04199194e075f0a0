// The operators of fastrnn/ops/operators.py on the CPU, and the parts of them that others call.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <string_view>
#include <tuple>
#include <vector>

#include "torch/checked_layer.h"
#include "torch/tensors.h"

namespace fastrnn {

struct Output {
  at::Tensor y;
  c10::SmallVector<at::Tensor, 2> final_state;
};

// y and the final states, not yet written; of one step they share h. The kernels advance the cell state in place, from
// the initial one.
Output allocate_output(const Layer& layer, const ReadyList& initial, at::ScalarType type, at::ScalarType real);

// layer_forward where nothing is saved for backward.
Output infer_layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options);

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
