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

using OptionalTensors = c10::List<std::optional<at::Tensor>>;
using OptionalTensor = std::optional<at::Tensor>;

struct Output {
  at::Tensor y;
  // The cell state of every step behind the final ones, where that is asked for.
  c10::SmallVector<at::Tensor, 3> final_state;
};

// What layer_backward takes beside the call.
struct Backward {
  at::Tensor dy;  // undefined for zeros, as all gradients from outside
  Tensors dstate;
  at::Tensor y, saved;
  std::vector<bool> needed;
  int64_t samples = 1;
};

// x in the order of memory that the layer has found it in.
Ready prepare_input(const Layer& layer, const at::Tensor& x, at::ScalarType type);

// Whether h of a single step gets memory of its own, or is y: one tensor, which an operator may not return twice.
enum class FinalHidden { kOwn, kOfOneStepShared };

// y and the final states, not yet written. The kernels advance the cell state in place, from the initial one.
Output allocate_output(const Layer& layer, const ReadyList& initial, at::ScalarType type, at::ScalarType real,
                       FinalHidden hidden);

Noise noise_of(const OptionalTensor& h_mask, double zoneout_h, double zoneout_c, const OptionalTensor& zoneout_seed);

Call call_of(const at::Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
             const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias,
             bool batch_first, const OptionalTensor& lengths, const OptionalTensor& reset,
             const OptionalTensor& h_reset, const OptionalTensor& c_reset, Noise noise, bool layer_norm);

// One for each state, and perhaps one for the cell states of all steps.
void check_state_gradients(const Tensors& dstate, const CellFacts& facts);

// A layer's backward.
Tensors backward(const Layer& layer, const at::Tensor& x, at::TensorList state, at::TensorList weights,
                 const Noise& noise, const Backward& given);

// layer_forward where nothing is saved for backward.
Output infer_layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options);

std::tuple<at::Tensor, Tensors, at::Tensor> layer_forward(
    const at::Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
    const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
    bool save, const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& h_reset,
    const OptionalTensor& c_reset, bool every_state, bool recompute, const OptionalTensor& h_mask, double zoneout_h,
    double zoneout_c, const OptionalTensor& zoneout_seed, bool layer_norm);

Tensors layer_backward(const OptionalTensor& dy, const OptionalTensors& dstate, const at::Tensor& x,
                       const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
                       const at::Tensor& y, const at::Tensor& saved, const OptionalTensor& batch_sizes,
                       std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
                       const c10::List<bool>& needed, int64_t samples, const OptionalTensor& lengths,
                       const OptionalTensor& reset, const OptionalTensor& h_reset, const OptionalTensor& c_reset,
                       const OptionalTensor& h_mask, double zoneout_h, double zoneout_c,
                       const OptionalTensor& zoneout_seed, bool layer_norm);

std::tuple<at::Tensor, Tensors> frozen_forward(const at::Tensor& x, const OptionalTensor& h_0,
                                               const OptionalTensor& c_0, at::TensorList weights,
                                               const OptionalTensor& batch_sizes, std::string_view cell,
                                               int64_t directions, bool has_bias, bool batch_first,
                                               const OptionalTensor& lengths, const OptionalTensor& reset,
                                               const OptionalTensor& h_reset, const OptionalTensor& c_reset,
                                               double zoneout_h, double zoneout_c);

// A registered operator, whichever implementation a call of it will reach; F is its type as of the functions above.
template <class F>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

}  // namespace fastrnn
