#include "torch/autograd.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace fastrnn {
namespace {

using at::Tensor;
using torch::autograd::Edge;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::PackedArgs;
using torch::dynamo::autograd::SwapSavedVariables;

using NodePtr = decltype(Edge::function);

// Up to torch 2.12 nodes are held by std::shared_ptr.
template <class N>
auto make_node() {
  if constexpr (std::is_same_v<NodePtr, std::shared_ptr<Node>>)
    return std::shared_ptr<N>(new N, [](auto* node) { deleteNode(node); });
  else
    return c10::make_intrusive<N>();
}

template <class F>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

using ForwardFunction = decltype(layer_forward);
using BackwardFunction = decltype(layer_backward);
using DoubleBackwardFunction = Tensors(const OptionalTensors&, const std::optional<Tensor>&, const OptionalTensors&,
                                       const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&,
                                       at::TensorList, const std::optional<Tensor>&, std::string_view, int64_t, bool,
                                       bool, const c10::List<bool>&, const c10::List<bool>&);

std::optional<Tensor> if_defined(const Tensor& t) { return t.defined() ? std::optional(t) : std::nullopt; }

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

// The arguments that forward, backward and its derivative share.
struct Call {
  Tensor x, h_0, c_0, batch_sizes;  // undefined where not given, as below
  Tensors weights;
  std::string cell;
  int64_t directions;
  bool has_bias, batch_first;
};

// The gradients of those of `all` that are `wanted`, which came without the others.
variable_list spread(const Tensors& given, const std::vector<bool>& wanted) {
  variable_list out(wanted.size());
  for (size_t i = 0, next = 0; i < wanted.size(); ++i)
    if (wanted[i]) out[i] = given[next++];
  return out;
}

bool any(const std::vector<bool>& values) { return std::find(values.begin(), values.end(), true) != values.end(); }

// A node that keeps a Call. `Own` has what else it keeps: visit(f) for each of that, and static apply().
//
// Compiled autograd, by which torch.compile traces a backward pass, collects what a node keeps, swaps it for its
// proxies, and calls apply() by way of Python.
template <class Own>
class CallNode : public Node {
 public:
  void keep(const Tensor& x, const std::optional<Tensor>& h_0, const std::optional<Tensor>& c_0, at::TensorList weights,
            const std::optional<Tensor>& batch_sizes, std::string_view cell, int64_t directions, bool has_bias,
            bool batch_first) {
    x_ = SavedVariable(x, false);
    h_0_ = SavedVariable(h_0, false);
    c_0_ = SavedVariable(c_0, false);
    batch_sizes_ = SavedVariable(batch_sizes, false);
    for (const Tensor& t : weights) weights_.emplace_back(t, false);
    cell_ = cell, directions_ = directions, has_bias_ = has_bias, batch_first_ = batch_first;
  }

  Own own;

  std::string name() const override { return Own::kName; }

  variable_list apply(variable_list&& gradients) override {
    std::vector<bool> wanted(num_outputs());
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = task_should_compute_output(i);
    const std::lock_guard lock(mutex_);
    return Own::apply(gradients, call(), own.unpack(getptr()), wanted);
  }

  void release_variables() override {
    const std::lock_guard lock(mutex_);
    visit_saved([](SavedVariable& t) { t.reset_data(); });
  }

  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(std::string(Own::kName));
    const_cast<CallNode*>(this)->visit([&](auto& kept) {
      if constexpr (kIsSaved<decltype(kept)>)
        args.collect(kept, /*is_output=*/true);  // of an input that makes no difference
      else
        args.collect(kept);
    });
  }

  variable_list apply_with_saved(const variable_list& gradients, SwapSavedVariables& saved) override {
    visit_saved([&](SavedVariable& t) { saved.before(t); });
    std::vector<bool> wanted(num_outputs());
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = task_should_compute_output(i);
    PackedArgs packed;
    const Call c = call();
    packed.pack(c.x);
    packed.pack(if_defined(c.h_0));
    packed.pack(if_defined(c.c_0));
    packed.pack(if_defined(c.batch_sizes));
    packed.pack(c.weights);
    packed.pack(c.cell);
    packed.pack(c.directions);
    packed.pack(c.has_bias);
    packed.pack(c.batch_first);
    Own::pack(packed, own.unpack(getptr()));
    packed.pack(wanted);
    const auto arguments = std::move(packed).vec();
    std::vector<at::TypePtr> types;
    for (const c10::IValue& argument : arguments)
      types.push_back(argument.isTensor() ? at::TensorType::get() : argument.type());
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    const std::string bound = compiler->bind_function(saved.get_py_compiler(), Own::kName, apply_packed, types,
                                                      /*is_custom_function=*/true, /*is_traceable=*/true);
    const auto metadata =
        torch::dynamo::autograd::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges()));
    variable_list out =
        compiler->call_function(saved.get_py_compiler(), "apply_functional", bound, gradients, arguments, metadata);
    visit_saved([&](SavedVariable& t) { saved.after(t); });
    return out;
  }

 private:
  Call call() const {
    const auto unpack = [](const std::vector<SavedVariable>& list) {
      Tensors out;
      for (const SavedVariable& t : list) out.push_back(t.unpack());
      return out;
    };
    return {x_.unpack(), h_0_.unpack(), c_0_.unpack(), batch_sizes_.unpack(), unpack(weights_),
            cell_,       directions_,   has_bias_,     batch_first_};
  }

  template <class Kept>
  static constexpr bool kIsSaved = std::is_same_v<std::decay_t<Kept>, SavedVariable> ||
                                   std::is_same_v<std::decay_t<Kept>, std::vector<SavedVariable>>;

  template <class F>
  void visit_saved(F f) {
    visit([&](auto& kept) {
      if constexpr (std::is_same_v<std::decay_t<decltype(kept)>, SavedVariable>)
        f(kept);
      else if constexpr (kIsSaved<decltype(kept)>)
        for (SavedVariable& t : kept) f(t);
    });
  }

  template <class F>
  void visit(F f) {
    f(x_), f(h_0_), f(c_0_), f(batch_sizes_), f(weights_), f(cell_), f(directions_), f(has_bias_);
    f(batch_first_);
    own.visit(f);
  }

  static variable_list apply_packed(const variable_list& gradients, at::ArrayRef<c10::IValue> arguments) {
    PackedArgs packed(arguments.vec());
    Call c;
    c.x = packed.unpack<Tensor>();
    c.h_0 = packed.unpack<std::optional<Tensor>>().value_or(Tensor());
    c.c_0 = packed.unpack<std::optional<Tensor>>().value_or(Tensor());
    c.batch_sizes = packed.unpack<std::optional<Tensor>>().value_or(Tensor());
    c.weights = packed.unpack<Tensors>();
    c.cell = packed.unpack<std::string>();
    c.directions = packed.unpack<int64_t>();
    c.has_bias = packed.unpack<bool>();
    c.batch_first = packed.unpack<bool>();
    const auto own = Own::unpack_packed(packed);
    return Own::apply(gradients, c, own, packed.unpack<std::vector<bool>>());
  }

  SavedVariable x_, h_0_, c_0_, batch_sizes_;
  std::vector<SavedVariable> weights_;
  std::string cell_;
  int64_t directions_ = 1;
  bool has_bias_ = true, batch_first_ = false;
};

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

  static variable_list apply(const variable_list& gradients, const Call& c, const Kept& kept,
                             const std::vector<bool>& wanted) {
    if (!any(wanted) || std::none_of(gradients.begin(), gradients.end(), [](const Tensor& t) { return t.defined(); }))
      return variable_list(wanted.size());
    static const auto backward = find_operator<BackwardFunction>("fastrnn::layer_backward");
    const at::TensorList dstate = at::TensorList(gradients).slice(1);
    return spread(backward.call(if_defined(gradients[0]), optionals(dstate), c.x, if_defined(c.h_0), if_defined(c.c_0),
                                c.weights, kept.y, kept.saved, if_defined(c.batch_sizes), c.cell, c.directions,
                                c.has_bias, c.batch_first, flags(wanted), /*samples=*/1),
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
    return spread(double_backward.call(optionals(gradients), if_defined(kept.dy), kept.dstate, c.x, if_defined(c.h_0),
                                       if_defined(c.c_0), c.weights, if_defined(c.batch_sizes), c.cell, c.directions,
                                       c.has_bias, c.batch_first, flags(kept.needed), flags(wanted)),
                  wanted);
  }
};

Tensors values(const OptionalTensors& list) {
  Tensors out;
  for (size_t i = 0; i < list.size(); ++i) out.push_back(std::optional<Tensor>(list.get(i)).value_or(Tensor()));
  return out;
}

void refuse_forward_mode(const Tensor& x, at::TensorList state, at::TensorList weights) {
  const auto refuse = [](const Tensor& t) {
    TORCH_CHECK_NOT_IMPLEMENTED(!torch::autograd::isFwGradDefined(t),
                                "fastrnn: expected tensors without a forward-mode gradient; the layers of the Python "
                                "package take such by another way, its operators do not");
  };
  refuse(x);
  for (const Tensor& t : state) refuse(t);
  for (const Tensor& t : weights) refuse(t);
}

}  // namespace

std::tuple<Tensor, Tensors, Tensor> layer_forward_autograd(const Tensor& x, const std::optional<Tensor>& h_0,
                                                           const std::optional<Tensor>& c_0, at::TensorList weights,
                                                           const std::optional<Tensor>& batch_sizes,
                                                           std::string_view cell, int64_t directions, bool has_bias,
                                                           bool batch_first, bool save) {
  const States state = given(h_0, c_0);
  const at::TensorList states = state;
  refuse_forward_mode(x, states, weights);
  static const auto forward = find_operator<ForwardFunction>("fastrnn::layer_forward");
  const auto run = [&](bool save_) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return forward.call(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first, save_);
  };
  if (!torch::autograd::compute_requires_grad(x, states, weights)) return run(save);

  auto node = make_node<CallNode<OfForward>>();
  node->set_next_edges(torch::autograd::collect_next_edges(x, states, weights));
  auto [y, final_state, saved] = run(true);
  node->keep(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first);
  torch::autograd::set_history(y, node);
  torch::autograd::set_history(final_state, node);
  node->own.y = SavedVariable(y, /*is_output=*/true);
  node->own.saved = SavedVariable(saved, false);
  if (!save) saved = saved.narrow(saved.dim() - 2, 0, 0).clone();
  return {std::move(y), std::move(final_state), std::move(saved)};
}

Tensors layer_backward_autograd(const std::optional<Tensor>& dy, const OptionalTensors& dstate, const Tensor& x,
                                const std::optional<Tensor>& h_0, const std::optional<Tensor>& c_0,
                                at::TensorList weights, const Tensor& y, const Tensor& saved,
                                const std::optional<Tensor>& batch_sizes, std::string_view cell, int64_t directions,
                                bool has_bias, bool batch_first, const c10::List<bool>& needed, int64_t samples) {
  const auto run = [&] {
    static const auto backward = find_operator<BackwardFunction>("fastrnn::layer_backward");
    const at::AutoDispatchBelowADInplaceOrView below;
    return backward.call(dy, dstate, x, h_0, c_0, weights, y, saved, batch_sizes, cell, directions, has_bias,
                         batch_first, needed, samples);
  };
  if (!at::GradMode::is_enabled()) return run();
  const Tensor dy_given = dy.value_or(Tensor());
  const Tensors dstate_given = values(dstate);
  const States state = given(h_0, c_0);
  const at::TensorList states = state;
  if (!torch::autograd::compute_requires_grad(dy_given, at::TensorList(dstate_given), x, states, weights)) return run();

  auto node = make_node<CallNode<OfBackward>>();
  node->set_next_edges(torch::autograd::collect_next_edges(dy_given, at::TensorList(dstate_given), x, states, weights));
  Tensors gradients = run();
  node->keep(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first);
  node->own.dy = SavedVariable(dy_given, false);
  for (const Tensor& t : dstate_given) node->own.dstate.emplace_back(t, false);
  for (size_t i = 0; i < needed.size(); ++i) node->own.needed.push_back(needed.get(i));
  node->own.samples = samples;
  torch::autograd::set_history(gradients, node);
  return gradients;
}

}  // namespace fastrnn
