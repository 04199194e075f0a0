#include "python/call.h"

#include <ATen/ATen.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <c10/util/SmallVector.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>

#include "torch/autograd.h"
#include "torch/operators.h"

namespace fastrnn {
namespace {

using at::Tensor;
using Taken = c10::SmallVector<Tensor, 10>;
using pybind11::object;

// Whether a mode, a transform or a tracer wants to see the operators that are called, or change what they are given.
bool operators_are_observed() {
  const c10::impl::LocalDispatchKeySet keys = c10::impl::tls_local_dispatch_key_set();
  return at::impl::torch_function_mode_enabled() || c10::impl::TorchDispatchModeTLS::any_modes_set() ||
         keys.included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         keys.included_.has(c10::DispatchKey::Tracer) || at::autocast::is_autocast_enabled(at::kCPU);
}

// Appends the tensor of a Python object. False where a subclass, a wrapper or a transform stands behind it.
bool take(PyObject* python, Taken& out) {
  if (!python || !THPVariable_CheckExact(python)) return false;
  const Tensor& t = THPVariable_Unpack(python);
  if (!t.is_cpu() || t.layout() != at::kStrided || t.is_neg() || t._is_zerotensor() || at::isTensorSubclassLike(t) ||
      t._fw_grad(/*level=*/0).defined())
    return false;
  out.push_back(t);
  return true;
}

// None, a tensor, or for a cell with a state of its own a pair.
bool take_state(const object& hx, bool pair, Taken& out) {
  if (hx.is_none()) return true;
  if (!pair) return take(hx.ptr(), out);
  return PyTuple_CheckExact(hx.ptr()) && PyTuple_GET_SIZE(hx.ptr()) == 2 && take(PyTuple_GET_ITEM(hx.ptr(), 0), out) &&
         take(PyTuple_GET_ITEM(hx.ptr(), 1), out);
}

bool take_weights(const pybind11::dict& parameters, const pybind11::list& names, Taken& out) {
  for (const pybind11::handle name : names)
    if (!take(PyDict_GetItem(parameters.ptr(), name.ptr()), out)) return false;
  return !out.empty();
}

object wrap(const Tensor& t) { return pybind11::reinterpret_steal<object>(THPVariable_Wrap(t)); }

object wrap_state(at::TensorList state) {
  if (state.size() == 1) return wrap(state[0]);
  return pybind11::make_tuple(wrap(state[0]), wrap(state[1]));
}

// What a module checks before it runs, so that it is the module that raises, in torch.nn's words. What else may be
// wrong, the layer finds.
bool fits(const Tensor& x, const Taken& state, const Taken& weights, const Stack& stack) {
  const LayerOptions& options = stack.options;
  const bool one_step = options.one_step(), batch_first = options.form != Form::kTimeFirst;
  if (x.dim() != (one_step ? 2 : 3) || !x.is_floating_point() || weights[0].dim() != 2 || weights[1].dim() != 2 ||
      x.size(-1) != weights[0].size(1) || (!one_step && x.size(batch_first ? 1 : 0) == 0))
    return false;
  Sizes n{};
  n.D = stack.layers * options.directions, n.B = x.size(batch_first ? 0 : 1);
  n.H = weights[1].size(0) / cell_facts(options.cell).gates, n.P = weights[1].size(1);
  const Shapes<2> shapes = state_shapes(options, n);
  for (size_t i = 0; i < state.size(); ++i)
    if (state[i].scalar_type() != x.scalar_type() || state[i].sizes() != sizes_of(shapes[i])) return false;
  for (const Tensor& w : weights)
    if (w.scalar_type() != x.scalar_type()) return false;
  return true;
}

// Where the rows of a batch end and begin anew; undefined for nowhere.
struct Ends {
  Tensor lengths, reset;

  explicit operator bool() const { return lengths.defined() || reset.defined(); }
};

// As fits(): of the forms that a module accepts.
bool take_ends(const object& lengths, const object& reset, const Tensor& x, const Stack& stack, Ends& out) {
  Taken taken;
  const bool batch_first = stack.options.form == Form::kBatchFirst;
  if (!lengths.is_none()) {
    if (!take(lengths.ptr(), taken) || taken.back().dim() != 1 || taken.back().size(0) != x.size(batch_first ? 0 : 1) ||
        !at::isIntegralType(taken.back().scalar_type(), /*includeBool=*/false))
      return false;
    out.lengths = taken.back();
  }
  if (!reset.is_none()) {
    if (!take(reset.ptr(), taken) || taken.back().sizes() != x.sizes().slice(0, 2) ||
        taken.back().scalar_type() != at::kBool)
      return false;
    out.reset = taken.back();
  }
  return true;
}

int64_t weights_size(const Taken& weights) {
  int64_t elements = 0;
  for (const Tensor& w : weights) elements += w.numel();
  return elements;
}

bool requires_gradient(const Tensor& x, const Taken& state, const Taken& weights) {
  const auto any = [](const Taken& list) {
    return std::any_of(list.begin(), list.end(), [](const Tensor& t) { return t.requires_grad(); });
  };
  return at::GradMode::is_enabled() && (x.requires_grad() || any(state) || any(weights));
}

// A layer by layer_forward or layer_forward_autograd.
Output call_operator(decltype(layer_forward)& forward, const Tensor& x, at::TensorList state, at::TensorList weights,
                     const LayerOptions& options, const Ends& ends) {
  const auto initial = [&](size_t i) { return i < state.size() ? std::optional(state[i]) : std::nullopt; };
  auto [y, final_state, saved] =
      forward(x, initial(0), initial(1), weights, /*batch_sizes=*/std::nullopt, cell_facts(options.cell).name,
              options.directions, options.has_bias, options.form == Form::kBatchFirst, /*save=*/false,
              if_defined(ends.lengths), if_defined(ends.reset), /*h_reset=*/std::nullopt, /*c_reset=*/std::nullopt,
              /*every_state=*/false, /*recompute=*/false, /*h_mask=*/std::nullopt, /*zoneout_h=*/0, /*zoneout_c=*/0,
              /*zoneout_seed=*/std::nullopt, /*layer_norm=*/false);
  return {std::move(y), {final_state.begin(), final_state.end()}};
}

Output run(Tensor x, const Taken& state, const Taken& weights, const Stack& stack, const Ends& ends) {
  // Handing the interpreter over and taking it back costs 0.3 us, and another thread keeps it for 5 ms.
  constexpr int64_t kShort = 500'000;  // multiply-adds, some 20 us
  std::optional<pybind11::gil_scoped_release> release;
  if (x.numel() / std::max<int64_t>(x.size(-1), 1) * weights_size(weights) > kShort) release.emplace();
  const bool recorded = requires_gradient(x, state, weights);
  std::optional<at::AutoDispatchBelowADInplaceOrView> below_autograd;
  if (!recorded) below_autograd.emplace();
  RECORD_FUNCTION("fastrnn::layer_forward", c10::ArrayRef<const c10::IValue>{});
  const auto layer = [&](const Tensor& input, at::TensorList initial, at::TensorList of_layer) {
    if (!recorded && !ends) return infer_layer(input, initial, of_layer, stack.options);
    return call_operator(recorded ? layer_forward_autograd : layer_forward, input, initial, of_layer, stack.options,
                         ends);
  };
  if (stack.layers == 1) return layer(x, state, weights);
  const int64_t directions = stack.options.directions;
  const size_t per_layer = weights.size() / stack.layers;
  std::vector<Tensor> finals[2];
  for (int64_t i = 0; i < stack.layers; ++i) {
    Taken initial;
    for (const Tensor& s : state) initial.push_back(s.narrow(0, i * directions, directions));
    Output out = layer(x, initial, at::TensorList(weights).slice(i * per_layer, per_layer));
    x = std::move(out.y);
    for (size_t k = 0; k < out.final_state.size(); ++k) finals[k].push_back(std::move(out.final_state[k]));
  }
  Output out{std::move(x), {}};
  for (const std::vector<Tensor>& parts : finals)
    if (!parts.empty()) out.final_state.push_back(at::cat(parts));
  return out;
}

// Nothing where the arguments, or a mode in force, ask for more than the kernels do.
std::optional<Output> run_plain(const pybind11::dict& parameters, const pybind11::list& names, const object& input,
                                const object& hx, const std::optional<Stack>& stack,
                                const object& lengths = pybind11::none(), const object& reset = pybind11::none()) {
  Taken x, state, weights;
  Ends ends;
  if (!stack || operators_are_observed() || !take(input.ptr(), x) ||
      !take_state(hx, cell_facts(stack->options.cell).states > 1, state) || !take_weights(parameters, names, weights) ||
      !fits(x[0], state, weights, *stack) || !take_ends(lengths, reset, x[0], *stack, ends))
    return std::nullopt;
  return run(std::move(x[0]), state, weights, *stack, ends);
}

}  // namespace

std::optional<Stack> stack_of(std::string_view cell, Form form, int64_t layers, int64_t directions, bool has_bias,
                              int64_t weights) {
  const std::optional<CellKind> kind = find_cell(cell);
  if (!kind) return std::nullopt;
  return Stack{
      layer_options(*kind, form, directions, has_bias, /*layer_norm=*/false, weights / std::max<int64_t>(layers, 1)),
      layers};
}

object call_layers(const pybind11::dict& parameters, const pybind11::list& names, const object& input, const object& hx,
                   const object& lengths, const object& reset, const std::optional<Stack>& stack) {
  const auto out = run_plain(parameters, names, input, hx, stack, lengths, reset);
  if (!out) return pybind11::none();
  return pybind11::make_tuple(wrap(out->y), wrap_state(out->final_state));
}

object call_cell(const pybind11::dict& parameters, const pybind11::list& names, const object& input, const object& hx,
                 const std::optional<Stack>& stack) {
  const auto out = run_plain(parameters, names, input, hx, stack);
  return out ? wrap_state(out->final_state) : pybind11::none();
}

}  // namespace fastrnn
