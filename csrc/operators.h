// The operators of fastrnn/ops.py on the CPU.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <string_view>
#include <tuple>
#include <vector>

#include "layer.h"

namespace fastrnn {

// The cells that are compiled in, by the names of fastrnn/spec.py.
std::vector<std::string> cell_names();
CellKind cell_kind(std::string_view name);
CellFacts cell_facts(std::string_view name);

// How the rows of a layer lie in x: [T, B, I], [B, T, I], packed [N, I], or one step [B, I] with states [B, P], [B, H].
enum class Form { kTimeFirst, kBatchFirst, kPacked, kOneStep };

struct Output {
  at::Tensor y;
  c10::SmallVector<at::Tensor, 2> final_state;
};

// layer_forward where nothing is kept for backward.
Output infer_layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, Form form, std::string_view cell,
                   int64_t directions, bool has_bias);

std::tuple<at::Tensor, std::vector<at::Tensor>, at::Tensor> layer_forward(const at::Tensor& x, at::TensorList state,
                                                                          at::TensorList weights,
                                                                          const std::optional<at::Tensor>& batch_sizes,
                                                                          std::string_view cell, int64_t directions,
                                                                          bool has_bias, bool batch_first, bool save);

std::vector<at::Tensor> layer_backward(const std::optional<at::Tensor>& dy,
                                       const c10::List<std::optional<at::Tensor>>& dstate, const at::Tensor& x,
                                       at::TensorList state, at::TensorList weights, const at::Tensor& y,
                                       const at::Tensor& saved, const std::optional<at::Tensor>& batch_sizes,
                                       std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
                                       const c10::List<bool>& needed);

}  // namespace fastrnn
