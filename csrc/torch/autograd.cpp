#include "torch/autograd.h"

#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <vector>

#include "torch/call_node.h"

namespace fastrnn {
namespace {

using at::Tensor;

using ForwardFunction = decltype(layer_forward);
using BackwardFunction = decltype(layer_backward);
using DoubleBackwardFunction = Tensors(const OptionalTensors&, const OptionalTensor&, const OptionalTensors&,
                                       const Tensor&, const OptionalTensor&, const OptionalTensor&, at::TensorList,
                                       const OptionalTensor&, std::string_view, int64_t, bool, bool,
                                       const c10::List<bool>&, const c10::List<bool>&, const OptionalTensor&,
                                       const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                                       const OptionalTensor&, double, double, const OptionalTensor&, bool);

c10::List<bool> flags(const std::vector<bool>& values) {
  c10::List<bool> out;
  for (const bool value : values) out.push_back(value);
  return out;
}

OptionalTensors optionals(at::TensorList list) {
  OptionalTensors out;
  for (const Tensor& t : list) out.push_back(if_defined(t));
  return out;
}

// The gradients that came for those that are `wanted`, with the others undefined.
variable_list spread(const Tensors& given, const std::vector<bool>& wanted) {
  variable_list out(wanted.size());
  for (size_t i = 0, next = 0; i < wanted.size(); ++i)
    if (wanted[i]) out[i] = given[next++];
  return out;
}

// The operators on a call, by way of the dispatcher.
std::tuple<Tensor, Tensors, Tensor> call_forward(const Call& c, bool save, bool every_state) {
  static const auto forward = find_operator<ForwardFunction>("fastrnn::layer_forward");
  return forward.call(c.x, if_defined(c.h_0), if_defined(c.c_0), c.weights, if_defined(c.batch_sizes), c.cell,
                      c.directions, c.has_bias, c.batch_first, save, if_defined(c.lengths), if_defined(c.reset),
                      c.reset_at(0), c.reset_at(1), every_state, /*recompute=*/false, if_defined(c.noise.h_mask),
                      c.noise.zoneout_h, c.noise.zoneout_c, if_defined(c.noise.zoneout_seed), c.layer_norm);
}
Tensors call_backward(const Call& c, const Tensor& dy, const OptionalTensors& dstate, const Tensor& y,
                      const Tensor& saved, const c10::List<bool>& needed, int64_t samples) {
  static const auto backward = find_operator<BackwardFunction>("fastrnn::layer_backward");
  return backward.call(if_defined(dy), dstate, c.x, if_defined(c.h_0), if_defined(c.c_0), c.weights, y, saved,
                       if_defined(c.batch_sizes), c.cell, c.directions, c.has_bias, c.batch_first, needed, samples,
                       if_defined(c.lengths), if_defined(c.reset), c.reset_at(0), c.reset_at(1),
                       if_defined(c.noise.h_mask), c.noise.zoneout_h, c.noise.zoneout_c,
                       if_defined(c.noise.zoneout_seed), c.layer_norm);
}

bool any(const std::vector<bool>& values) { return std::find(values.begin(), values.end(), true) != values.end(); }

// layer_forward's: from the gradients of y and the final states to those of x, states and weights.
struct OfForward {
  static constexpr const char* kName = "FastrnnLayerBackward";

  SavedVariable y, saved;

  struct Kept {
    Tensor y, saved;
  };
  Kept unpack(const NodePtr& node) const { return {y.unpack(node), saved.unpack()}; }
  template <class F>
  void visit(F f) {
    f(y), f(saved);
  }
  static void pack(PackedArgs& packed, const Kept& kept) { packed.pack(kept.y), packed.pack(kept.saved); }
  static Kept unpack_packed(PackedArgs& packed) {
    Kept kept;
    kept.y = packed.unpack<Tensor>(), kept.saved = packed.unpack<Tensor>();
    return kept;
  }

  // What was not saved, to be formed again, has no rows.
  static Tensor saved_or_again(const Call& c, const Kept& kept) {
    if (kept.saved.sym_size(-2) != 0) return kept.saved;
    const at::NoGradGuard no_grad;
    return std::get<2>(call_forward(c, /*save=*/true, /*every_state=*/false));
  }

  static variable_list apply(const variable_list& gradients, const Call& c, const Kept& kept,
                             const std::vector<bool>& wanted) {
    if (!any(wanted) || std::none_of(gradients.begin(), gradients.end(), [](const Tensor& t) { return t.defined(); }))
      return variable_list(wanted.size());
    const OptionalTensors dstate = optionals(at::TensorList(gradients).slice(1));
    return spread(call_backward(c, gradients[0], dstate, kept.y, saved_or_again(c, kept), flags(wanted), /*samples=*/1),
                  wanted);
  }
};

// layer_backward's: from the gradients of its results to those of dy, dstate, x, states and weights.
struct OfBackward {
  static constexpr const char* kName = "FastrnnLayerDoubleBackward";

  SavedVariable dy;
  std::vector<SavedVariable> dstate;  // undefined where none came
  std::vector<bool> needed;
  int64_t samples = 1;

  struct Kept {
    Tensor dy;
    OptionalTensors dstate;
    std::vector<bool> needed;
    int64_t samples;
  };
  Kept unpack(const NodePtr&) const {
    Kept kept{dy.unpack(), OptionalTensors(), needed, samples};
    for (const SavedVariable& t : dstate) kept.dstate.push_back(if_defined(t.unpack()));
    return kept;
  }
  template <class F>
  void visit(F f) {
    f(dy), f(dstate), f(needed), f(samples);
  }
  static void pack(PackedArgs& packed, const Kept& kept) {
    packed.pack(if_defined(kept.dy));
    packed.pack(int64_t(kept.dstate.size()));
    for (size_t i = 0; i < kept.dstate.size(); ++i) packed.pack(std::optional<Tensor>(kept.dstate.get(i)));
    packed.pack(kept.needed);
    packed.pack(kept.samples);
  }
  static Kept unpack_packed(PackedArgs& packed) {
    Kept kept;
    kept.dy = packed.unpack<std::optional<Tensor>>().value_or(Tensor());
    const int64_t states = packed.unpack<int64_t>();
    for (int64_t i = 0; i < states; ++i) kept.dstate.push_back(packed.unpack<std::optional<Tensor>>());
    kept.needed = packed.unpack<std::vector<bool>>();
    kept.samples = packed.unpack<int64_t>();
    return kept;
  }

  static variable_list apply(const variable_list& gradients, const Call& c, const Kept& kept,
                             const std::vector<bool>& wanted) {
    if (!any(wanted) || std::none_of(gradients.begin(), gradients.end(), [](const Tensor& t) { return t.defined(); }))
      return variable_list(wanted.size());
    TORCH_CHECK_NOT_IMPLEMENTED(kept.samples == 1, "fastrnn: gradients by sample have no derivative");
    static const auto double_backward = find_operator<DoubleBackwardFunction>("fastrnn::layer_double_backward");
    return spread(
        double_backward.call(optionals(gradients), if_defined(kept.dy), kept.dstate, c.x, if_defined(c.h_0),
                             if_defined(c.c_0), c.weights, if_defined(c.batch_sizes), c.cell, c.directions, c.has_bias,
                             c.batch_first, flags(kept.needed), flags(wanted), if_defined(c.lengths),
                             if_defined(c.reset), c.reset_at(0), c.reset_at(1), if_defined(c.noise.h_mask),
                             c.noise.zoneout_h, c.noise.zoneout_c, if_defined(c.noise.zoneout_seed), c.layer_norm),
        wanted);
  }
};

Tensors values(const OptionalTensors& list) {
  Tensors out;
  for (size_t i = 0; i < list.size(); ++i) out.push_back(std::optional<Tensor>(list.get(i)).value_or(Tensor()));
  return out;
}

void refuse_forward_mode(const Call& c) {
  const auto refuse = [](const Tensor& t) {
    TORCH_CHECK_NOT_IMPLEMENTED(!torch::autograd::isFwGradDefined(t),
                                "fastrnn: expected tensors without a forward-mode gradient; the layers of the Python "
                                "package take such by another way, its operators do not");
  };
  refuse(c.x);
  for (const Tensor& t : c.state()) refuse(t);
  for (const Tensor& t : c.weights) refuse(t);
  for (const Tensor& t : c.reset_state) refuse(t);
}

}  // namespace

std::tuple<Tensor, Tensors, Tensor> layer_forward_autograd(
    const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
    const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
    bool save, const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& h_reset,
    const OptionalTensor& c_reset, bool every_state, bool recompute, const OptionalTensor& h_mask, double zoneout_h,
    double zoneout_c, const OptionalTensor& zoneout_seed, bool layer_norm) {
  const Call c = call_of(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first, lengths, reset,
                         h_reset, c_reset, noise_of(h_mask, zoneout_h, zoneout_c, zoneout_seed), layer_norm);
  refuse_forward_mode(c);
  const auto run = [&](bool save_) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_forward(c, save_, every_state);
  };
  const States state = c.state();
  const at::TensorList states = state;
  if (!torch::autograd::compute_requires_grad(x, states, weights, at::TensorList(c.reset_state))) return run(save);

  auto node = make_node<CallNode<OfForward>>();
  node->set_next_edges(torch::autograd::collect_next_edges(x, states, weights, at::TensorList(c.reset_state)));
  // Nothing need be formed again for a cell that saves nothing.
  const bool again = recompute && saved_values(cell_facts(cell_kind(c.cell)), c.noise.zoneout(), c.layer_norm) > 0;
  auto [y, final_state, saved] = run(save || !again);
  node->keep(c);
  torch::autograd::set_history(y, node);
  torch::autograd::set_history(final_state, node);
  node->own.y = SavedVariable(y, /*is_output=*/true);
  const auto none_of = [](const Tensor& t) { return t.narrow(t.dim() - 2, 0, 0).clone(); };
  node->own.saved = SavedVariable(again ? none_of(saved) : saved, false);
  if (!save) saved = none_of(saved);
  return {std::move(y), std::move(final_state), std::move(saved)};
}

Tensors layer_backward_autograd(const OptionalTensor& dy, const OptionalTensors& dstate, const Tensor& x,
                                const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
                                const Tensor& y, const Tensor& saved, const OptionalTensor& batch_sizes,
                                std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
                                const c10::List<bool>& needed, int64_t samples, const OptionalTensor& lengths,
                                const OptionalTensor& reset, const OptionalTensor& h_reset,
                                const OptionalTensor& c_reset, const OptionalTensor& h_mask, double zoneout_h,
                                double zoneout_c, const OptionalTensor& zoneout_seed, bool layer_norm) {
  const Call c = call_of(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first, lengths, reset,
                         h_reset, c_reset, noise_of(h_mask, zoneout_h, zoneout_c, zoneout_seed), layer_norm);
  const Tensor dy_given = or_undefined(dy);
  const auto run = [&] {
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_backward(c, dy_given, dstate, y, saved, needed, samples);
  };
  if (!at::GradMode::is_enabled()) return run();
  const Tensors dstate_given = values(dstate);
  const at::TensorList dstates = dstate_given;
  const States state = c.state();
  const at::TensorList states = state;
  if (!torch::autograd::compute_requires_grad(dy_given, dstates, x, states, weights, at::TensorList(c.reset_state)))
    return run();

  auto node = make_node<CallNode<OfBackward>>();
  node->set_next_edges(
      torch::autograd::collect_next_edges(dy_given, dstates, x, states, weights, at::TensorList(c.reset_state)));
  Tensors gradients = run();
  node->keep(c);
  node->own.dy = SavedVariable(dy_given, false);
  for (const Tensor& t : dstate_given) node->own.dstate.emplace_back(t, false);
  for (size_t i = 0; i < needed.size(); ++i) node->own.needed.push_back(needed.get(i));
  node->own.samples = samples;
  torch::autograd::set_history(gradients, node);
  return gradients;
}

}  // namespace fastrnn
