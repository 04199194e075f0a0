#include "operators.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "checked_layer.h"
#include "dispatch.h"
#include "tensors.h"

namespace fastrnn {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

template <class T>
c10::SmallVector<Weights<T>, 2> weight_pointers(const Layer& layer, const ReadyList& weights) {
  c10::SmallVector<Weights<T>, 2> out;
  for (int64_t d = 0; d < layer.n.D; ++d) {
    const Ready* w = weights.data() + d * layer.per_direction;
    out.push_back({read<T>(*w[0]), read<T>(*w[1]), layer.has_bias ? read<T>(*w[2]) : nullptr,
                   layer.has_bias ? read<T>(*w[3]) : nullptr,
                   layer.projected ? read<T>(*w[layer.per_direction - 1]) : nullptr});
  }
  return out;
}

template <class T>
void forward_as(const Layer& layer, const Tensor& x, const ReadyList& state, const ReadyList& weights, Output& out,
                Tensor& saved) {
  const auto pointers = weight_pointers<T>(layer, weights);
  ForwardArgs<T> args;
  args.sizes = layer.n;
  args.rows = layer.rows();
  args.x = read<T>(x);
  args.h_0 = state.empty() ? nullptr : read<T>(*state[0]);
  args.weights = pointers.data();
  args.y = write<T>(out.y);
  args.h_T = layer.one_step ? nullptr : write<T>(out.final_state[0]);
  args.memory = layer.facts.has_memory ? write<Real<T>>(out.final_state[1]) : nullptr;
  args.saved = write<Real<T>>(saved);
  run_forward(layer.kind, args, at::get_num_threads());
}

template <class T>
void backward_as(const Layer& layer, const Tensor& dy, const Tensor& dh_T, const Tensor& x, const ReadyList& state,
                 const ReadyList& weights, const Tensor& y, const Tensor& saved, Tensor& dx, Tensor& dh_0,
                 Tensor& carry, Tensors& dweights) {
  const auto pointers = weight_pointers<T>(layer, weights);
  std::vector<WeightGradients<Real<T>>> gradients;
  for (int64_t d = 0; d < layer.n.D; ++d) {
    Tensor* w = dweights.data() + d * layer.per_direction;
    gradients.push_back({write<Real<T>>(w[0]), write<Real<T>>(w[1]), layer.has_bias ? write<Real<T>>(w[2]) : nullptr,
                         layer.has_bias ? write<Real<T>>(w[3]) : nullptr,
                         layer.projected ? write<Real<T>>(w[layer.per_direction - 1]) : nullptr});
  }
  BackwardArgs<T> args;
  args.sizes = layer.n;
  args.rows = layer.rows();
  args.x = read<T>(x);
  args.h_0 = state.empty() ? nullptr : read<T>(*state[0]);
  args.memory_0 = state.size() > 1 ? read<Real<T>>(*state[1]) : nullptr;
  args.weights = pointers.data();
  args.y = read<T>(y);
  args.saved = read<Real<T>>(saved);
  args.dy = read<T>(dy);
  args.dh_T = read<T>(dh_T);
  args.dx = write<Real<T>>(dx);
  args.dh_0 = write<Real<T>>(dh_0);
  args.carry = write<Real<T>>(carry);
  args.gradients = gradients.data();
  run_backward(layer.kind, args, at::get_num_threads());
}

// `saved` is written where it is defined.
Output forward(const Layer& layer, const Tensor& x, at::TensorList state, at::TensorList weights, Tensor& saved) {
  const at::ScalarType type = product_type(x), real = real_type(x);
  const ReadyList initial = prepare_states(state, type, real);
  Output out = allocate_output(layer, initial, type, real);
  if (!layer.empty()) {
    const Ready input = prepare(x, type);
    const ReadyList prepared = prepare(weights, type);
    with_type(type, [&]<class T>() { forward_as<T>(layer, *input, initial, prepared, out, saved); });
  }
  if (x.scalar_type() == real) return out;
  out.y = convert(out.y, x.scalar_type());
  for (Tensor& s : out.final_state) s = convert(s, x.scalar_type());
  return out;
}

}  // namespace

Output allocate_output(const Layer& layer, const ReadyList& initial, at::ScalarType type, at::ScalarType real) {
  Output out;
  out.y = allocate(layer.y_shape, type);
  if (layer.one_step)
    out.final_state.push_back(out.y);
  else
    out.final_state.push_back(layer.empty() ? zeros(layer.h_shape, type) : allocate(layer.h_shape, type));
  if (layer.facts.has_memory)
    out.final_state.push_back(copy_of(initial.empty() ? nullptr : &*initial[1], layer.memory_shape, real));
  return out;
}

Output infer_layer(const Tensor& x, at::TensorList state, at::TensorList weights, Form form, std::string_view cell,
                   int64_t directions, bool has_bias) {
  Tensor nothing_saved;
  return forward({x, state, weights, form, std::nullopt, cell, directions, has_bias}, x, state, weights, nothing_saved);
}

std::tuple<Tensor, Tensors, Tensor> layer_forward(const Tensor& x, at::TensorList state, at::TensorList weights,
                                                  const std::optional<Tensor>& batch_sizes, std::string_view cell,
                                                  int64_t directions, bool has_bias, bool batch_first, bool save) {
  const Layer layer(x, state, weights, form_of(batch_sizes, batch_first), batch_sizes, cell, directions, has_bias);
  const Sizes& n = layer.n;
  Tensor saved, nothing_saved;
  saved = allocate({n.D, save ? n.N : 0, layer.facts.saved * n.H}, real_type(x));
  Output out = forward(layer, x, state, weights, save ? saved : nothing_saved);
  return {std::move(out.y), Tensors(out.final_state.begin(), out.final_state.end()), std::move(saved)};
}

Tensors layer_backward(const std::optional<Tensor>& dy, const c10::List<std::optional<Tensor>>& dstate, const Tensor& x,
                       at::TensorList state, at::TensorList weights, const Tensor& y, const Tensor& saved,
                       const std::optional<Tensor>& batch_sizes, std::string_view cell, int64_t directions,
                       bool has_bias, bool batch_first, const c10::List<bool>& needed) {
  const Layer layer(x, state, weights, form_of(batch_sizes, batch_first), batch_sizes, cell, directions, has_bias);
  const Sizes& n = layer.n;
  const at::ScalarType type = product_type(x), real = real_type(x);
  const size_t states = layer.facts.has_memory ? 2 : 1;
  TORCH_CHECK(needed.size() == 1 + state.size() + weights.size(), "fastrnn: expected ",
              1 + state.size() + weights.size(), " flags in needed, got ", needed.size());
  TORCH_CHECK(dstate.size() == states, "fastrnn: expected ", states, " final-state gradients, got ", dstate.size());
  TORCH_CHECK(y.sizes() == at::IntArrayRef(layer.y_shape) &&
                  saved.sizes() == at::IntArrayRef({n.D, n.N, layer.facts.saved * n.H}) &&
                  saved.scalar_type() == real && y.device() == x.device() && saved.device() == x.device(),
              "fastrnn: expected y and saved of this layer's forward, got ", y.sizes(), " and ", saved.scalar_type(),
              " ", saved.sizes());

  const auto optional = [&](const std::optional<Tensor>& t, at::IntArrayRef shape, const char* name,
                            at::ScalarType as) {
    if (!t || !t->defined()) return Tensor();
    TORCH_CHECK(t->sizes() == shape && t->device() == x.device(), "fastrnn: expected ", name, " of shape ", shape,
                " on ", x.device(), ", got ", t->sizes(), " on ", t->device());
    return Tensor(*prepare(*t, as));
  };
  const Tensor dy_ = optional(dy, layer.y_shape, "dy", type);
  const Tensor dh_T = optional(dstate.get(0), {n.D, n.B, n.P}, "dh_T", type);
  const Tensor dmemory_T = states > 1 ? optional(dstate.get(1), {n.D, n.B, n.H}, "dc_T", real) : Tensor();

  Tensor dx = needed.get(0) ? allocate(x.sizes(), real) : Tensor();
  // Of no rows, the kernels write nothing.
  const auto result = [&](at::IntArrayRef shape) { return layer.empty() ? zeros(shape, real) : allocate(shape, real); };
  Tensor dh_0 = !state.empty() && needed.get(1) ? result(layer.h_shape) : Tensor();
  Tensor carry;
  if (layer.facts.has_carry) carry = copy_of(dmemory_T.defined() ? &dmemory_T : nullptr, layer.memory_shape, real);
  Tensors dweights(weights.size());
  for (size_t i = 0; i < weights.size(); ++i)
    if (needed.get(1 + state.size() + i)) dweights[i] = result(weights[i].sizes());

  if (!layer.empty()) {
    const Ready input = prepare(x, type), output = prepare(y, type), values = prepare(saved, real);
    const ReadyList initial = prepare_states(state, type, real), prepared = prepare(weights, type);
    with_type(type, [&]<class T>() {
      backward_as<T>(layer, dy_, dh_T, *input, initial, prepared, *output, *values, dx, dh_0, carry, dweights);
    });
  }

  Tensors out;
  const auto give = [&](const Tensor& t) { out.push_back(convert(t, x.scalar_type())); };
  if (needed.get(0)) give(dx);
  if (!state.empty() && needed.get(1)) give(dh_0);
  if (state.size() > 1 && needed.get(2)) give(carry);
  for (const Tensor& w : dweights)
    if (w.defined()) give(w);
  return out;
}

}  // namespace fastrnn

TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("layer_forward", fastrnn::layer_forward);
  m.impl("layer_backward", fastrnn::layer_backward);
}
