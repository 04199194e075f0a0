#include "torch/operators.h"

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "runtime/run.h"
#include "torch/checked_layer.h"
#include "torch/tensors.h"

namespace fastrnn {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

// Weights or their gradients of direction d, by pointer_to(tensor): null where there is none.
template <class To, class List, class F>
To by_direction(const LayerOptions& options, List& tensors, int64_t d, F pointer_to) {
  const auto w = [&](int64_t i) { return pointer_to(tensors[d * options.weights() + i]); };
  const bool biased = options.has_bias;
  return {w(0), w(1), biased ? w(2) : nullptr, biased ? w(3) : nullptr,
          options.projected ? w(options.weights() - 1) : nullptr};
}

template <class T>
c10::SmallVector<Weights<T>, 2> weight_pointers(const LayerOptions& options, const ReadyList& weights) {
  c10::SmallVector<Weights<T>, 2> out;
  for (int64_t d = 0; d < options.directions; ++d)
    out.push_back(by_direction<Weights<T>>(options, weights, d, [](const Ready& t) { return const_pointer<T>(*t); }));
  return out;
}

template <class T>
void forward_as(const Layer& layer, const Tensor& x, const ReadyList& state, const ReadyList& weights, Output& out,
                Tensor& saved) {
  const auto pointers = weight_pointers<T>(layer.options, weights);
  ForwardArgs<T> args;
  args.sizes = layer.n;
  args.rows = layer.batch.rows();
  args.x = const_pointer<T>(x);
  args.h_0 = state.empty() ? nullptr : const_pointer<T>(*state[0]);
  args.weights = pointers.data();
  args.y = pointer<T>(out.y);
  args.h_T = layer.options.one_step() ? nullptr : pointer<T>(out.final_state[0]);
  args.cell_state = layer.facts.states > 1 ? pointer<Real<T>>(out.final_state[1]) : nullptr;
  args.saved = pointer<Real<T>>(saved);
  run_forward(layer.options.cell, args, at::get_num_threads());
}

// What backward reads, prepared; gradients from outside that are not there are zeros.
struct BackwardInputs {
  Tensor dy, dh_T;
  Ready x;
  ReadyList state, weights;
  Ready y, saved;
};

// What it writes, as far as it is asked for.
struct Gradients {
  Tensor x, h_0, carry;
  Tensors weights;
};

template <class T>
void backward_as(const Layer& layer, const BackwardInputs& in, Gradients& out) {
  const auto pointers = weight_pointers<T>(layer.options, in.weights);
  std::vector<WeightGradients<Real<T>>> gradients;
  for (int64_t d = 0; d < layer.n.D; ++d)
    gradients.push_back(by_direction<WeightGradients<Real<T>>>(layer.options, out.weights, d,
                                                               [](Tensor& t) { return pointer<Real<T>>(t); }));
  BackwardArgs<T> args;
  args.sizes = layer.n;
  args.rows = layer.batch.rows();
  args.x = const_pointer<T>(*in.x);
  args.h_0 = in.state.empty() ? nullptr : const_pointer<T>(*in.state[0]);
  args.cell_state_0 = in.state.size() > 1 ? const_pointer<Real<T>>(*in.state[1]) : nullptr;
  args.weights = pointers.data();
  args.y = const_pointer<T>(*in.y);
  args.saved = const_pointer<Real<T>>(*in.saved);
  args.dy = const_pointer<T>(in.dy);
  args.dh_T = const_pointer<T>(in.dh_T);
  args.dx = pointer<Real<T>>(out.x);
  args.dh_0 = pointer<Real<T>>(out.h_0);
  args.carry = pointer<Real<T>>(out.carry);
  args.gradients = gradients.data();
  run_backward(layer.options.cell, args, at::get_num_threads());
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
  const at::IntArrayRef h_shape = sizes_of(layer.state_shapes[0]);
  if (layer.options.one_step())
    out.final_state.push_back(out.y);
  else
    out.final_state.push_back(layer.empty() ? zeros(h_shape, type) : allocate(h_shape, type));
  if (layer.facts.states > 1) {
    const Tensor* cell_state_0 = initial.empty() ? nullptr : &*initial[1];
    out.final_state.push_back(copy_of(cell_state_0, sizes_of(layer.state_shapes[1]), real));
  }
  return out;
}

Output infer_layer(const Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options) {
  Tensor nothing_saved;
  return forward({x, state, weights, options}, x, state, weights, nothing_saved);
}

std::tuple<Tensor, Tensors, Tensor> layer_forward(const Tensor& x, at::TensorList state, at::TensorList weights,
                                                  const std::optional<Tensor>& batch_sizes, std::string_view cell,
                                                  int64_t directions, bool has_bias, bool batch_first, bool save) {
  const LayerOptions options =
      layer_options(cell_kind(cell), form_of(batch_sizes, batch_first), directions, has_bias, weights.size());
  const Layer layer(x, state, weights, options, batch_sizes);
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
  const LayerOptions options =
      layer_options(cell_kind(cell), form_of(batch_sizes, batch_first), directions, has_bias, weights.size());
  const Layer layer(x, state, weights, options, batch_sizes);
  const Sizes& n = layer.n;
  const at::ScalarType type = product_type(x), real = real_type(x);
  const size_t states = layer.facts.states;
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
  const at::IntArrayRef h_shape = sizes_of(layer.state_shapes[0]), cell_state_shape = sizes_of(layer.state_shapes[1]);
  BackwardInputs in;
  in.dy = optional(dy, layer.y_shape, "dy", type);
  in.dh_T = optional(dstate.get(0), h_shape, "dh_T", type);
  const Tensor dcell_state_T = states > 1 ? optional(dstate.get(1), cell_state_shape, "dc_T", real) : Tensor();

  // Of no rows, the kernels write nothing.
  const auto result = [&](at::IntArrayRef shape) { return layer.empty() ? zeros(shape, real) : allocate(shape, real); };
  Gradients gradients;
  if (needed.get(0)) gradients.x = allocate(x.sizes(), real);
  if (!state.empty() && needed.get(1)) gradients.h_0 = result(h_shape);
  if (layer.facts.has_carry)
    gradients.carry = copy_of(dcell_state_T.defined() ? &dcell_state_T : nullptr, {n.D, n.B, n.H}, real);
  gradients.weights.resize(weights.size());
  for (size_t i = 0; i < weights.size(); ++i)
    if (needed.get(1 + state.size() + i)) gradients.weights[i] = result(weights[i].sizes());

  if (!layer.empty()) {
    in.x = prepare(x, type), in.y = prepare(y, type), in.saved = prepare(saved, real);
    in.state = prepare_states(state, type, real), in.weights = prepare(weights, type);
    with_type(type, [&]<class T>() { backward_as<T>(layer, in, gradients); });
  }

  Tensors out;
  const auto give = [&](const Tensor& t) { out.push_back(convert(t, x.scalar_type())); };
  if (needed.get(0)) give(gradients.x);
  if (!state.empty() && needed.get(1)) give(gradients.h_0);
  if (state.size() > 1 && needed.get(2)) give(gradients.carry);
  for (const Tensor& w : gradients.weights)
    if (w.defined()) give(w);
  return out;
}

}  // namespace fastrnn

TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("layer_forward", fastrnn::layer_forward);
  m.impl("layer_backward", fastrnn::layer_backward);
}
