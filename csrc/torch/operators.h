// The operators on the CPU, as schemas.inc describes them, and the parts of them that others call.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "torch/checked_layer.h"
#include "torch/tensors.h"

namespace fastrnn {

using Tensors = std::vector<at::Tensor>;
using OptionalTensors = c10::List<std::optional<at::Tensor>>;

struct Output {
  at::Tensor y;
  c10::SmallVector<at::Tensor, 2> final_state;
};

// x in the order of memory that the layer has found it in.
Ready prepare_input(const Layer& layer, const at::Tensor& x, at::ScalarType type);

// Whether h of a single step gets memory of its own, or is y: one tensor, which an operator may not return twice.
enum class FinalHidden { kOwn, kOfOneStepShared };

// y and the final states, not yet written. The kernels advance the cell state in place, from the initial one.
Output allocate_output(const Layer& layer, const ReadyList& initial, at::ScalarType type, at::ScalarType real,
                       FinalHidden hidden);

// layer_forward where nothing is saved for backward.
Output infer_layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options);

std::tuple<at::Tensor, Tensors, at::Tensor> layer_forward(const at::Tensor& x, const std::optional<at::Tensor>& h_0,
                                                          const std::optional<at::Tensor>& c_0, at::TensorList weights,
                                                          const std::optional<at::Tensor>& batch_sizes,
                                                          std::string_view cell, int64_t directions, bool has_bias,
                                                          bool batch_first, bool save);

Tensors layer_backward(const std::optional<at::Tensor>& dy, const OptionalTensors& dstate, const at::Tensor& x,
                       const std::optional<at::Tensor>& h_0, const std::optional<at::Tensor>& c_0,
                       at::TensorList weights, const at::Tensor& y, const at::Tensor& saved,
                       const std::optional<at::Tensor>& batch_sizes, std::string_view cell, int64_t directions,
                       bool has_bias, bool batch_first, const c10::List<bool>& needed, int64_t samples);

std::tuple<at::Tensor, Tensors> frozen_forward(const at::Tensor& x, const std::optional<at::Tensor>& h_0,
                                               const std::optional<at::Tensor>& c_0, at::TensorList weights,
                                               const std::optional<at::Tensor>& batch_sizes, std::string_view cell,
                                               int64_t directions, bool has_bias, bool batch_first);

// A registered operator, whichever implementation a call of it will reach; F is its type as of the functions above.
template <class F>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

}  // namespace fastrnn
