// A node of autograd's graph that keeps the arguments of a layer's call.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "torch/operators.h"

namespace fastrnn {

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::PackedArgs;
using torch::dynamo::autograd::SwapSavedVariables;

using NodePtr = decltype(torch::autograd::Edge::function);

// torch 2.11 holds nodes by std::shared_ptr.
template <class N>
auto make_node() {
  if constexpr (std::is_same_v<NodePtr, std::shared_ptr<Node>>)
    return std::shared_ptr<N>(new N, [](auto* node) { deleteNode(node); });
  else
    return c10::make_intrusive<N>();
}

// A node that keeps a Call. `Own` has what else it keeps: visit(f) for each of that, and static apply().
//
// Compiled autograd, by which torch.compile traces a backward pass, collects what a node keeps, swaps it for its
// proxies, and calls apply() by way of Python.
template <class Own>
class CallNode : public Node {
 public:
  void keep(const Call& c) {
    x_ = SavedVariable(c.x, false);
    h_0_ = SavedVariable(c.h_0, false);
    c_0_ = SavedVariable(c.c_0, false);
    batch_sizes_ = SavedVariable(c.batch_sizes, false);
    lengths_ = SavedVariable(c.lengths, false);
    reset_ = SavedVariable(c.reset, false);
    h_mask_ = SavedVariable(c.noise.h_mask, false);
    zoneout_seed_ = SavedVariable(c.noise.zoneout_seed, false);
    zoneout_h_ = c.noise.zoneout_h, zoneout_c_ = c.noise.zoneout_c;
    for (const at::Tensor& t : c.weights) weights_.emplace_back(t, false);
    for (const at::Tensor& t : c.reset_state) reset_state_.emplace_back(t, false);
    cell_ = c.cell, directions_ = c.directions, has_bias_ = c.has_bias, batch_first_ = c.batch_first;
    layer_norm_ = c.layer_norm;
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
    packed.pack(if_defined(c.lengths));
    packed.pack(if_defined(c.reset));
    packed.pack(c.weights);
    packed.pack(Tensors(c.reset_state.begin(), c.reset_state.end()));
    packed.pack(c.cell);
    packed.pack(c.directions);
    packed.pack(c.has_bias);
    packed.pack(c.batch_first);
    packed.pack(if_defined(c.noise.h_mask));
    packed.pack(c.noise.zoneout_h);
    packed.pack(c.noise.zoneout_c);
    packed.pack(if_defined(c.noise.zoneout_seed));
    packed.pack(c.layer_norm);
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
    const Tensors resets = unpack(reset_state_);
    const States reset_state(resets.begin(), resets.end());
    Noise noise{h_mask_.unpack(), zoneout_h_, zoneout_c_, zoneout_seed_.unpack()};
    return {x_.unpack(),     h_0_.unpack(), c_0_.unpack(),    unpack(weights_), batch_sizes_.unpack(),
            cell_,           directions_,   has_bias_,        batch_first_,     lengths_.unpack(),
            reset_.unpack(), reset_state,   std::move(noise), layer_norm_};
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
    f(x_), f(h_0_), f(c_0_), f(batch_sizes_), f(lengths_), f(reset_), f(weights_), f(reset_state_), f(cell_);
    f(directions_), f(has_bias_), f(batch_first_), f(h_mask_), f(zoneout_h_), f(zoneout_c_), f(zoneout_seed_);
    f(layer_norm_);
    own.visit(f);
  }

  static variable_list apply_packed(const variable_list& gradients, at::ArrayRef<c10::IValue> arguments) {
    PackedArgs packed(arguments.vec());
    Call c;
    c.x = packed.unpack<at::Tensor>();
    for (at::Tensor* t : {&c.h_0, &c.c_0, &c.batch_sizes, &c.lengths, &c.reset})
      *t = or_undefined(packed.unpack<OptionalTensor>());
    c.weights = packed.unpack<Tensors>();
    const Tensors reset_state = packed.unpack<Tensors>();
    c.reset_state.assign(reset_state.begin(), reset_state.end());
    c.cell = packed.unpack<std::string>();
    c.directions = packed.unpack<int64_t>();
    c.has_bias = packed.unpack<bool>();
    c.batch_first = packed.unpack<bool>();
    c.noise.h_mask = or_undefined(packed.unpack<OptionalTensor>());
    c.noise.zoneout_h = packed.unpack<double>();
    c.noise.zoneout_c = packed.unpack<double>();
    c.noise.zoneout_seed = or_undefined(packed.unpack<OptionalTensor>());
    c.layer_norm = packed.unpack<bool>();
    const auto own = Own::unpack_packed(packed);
    return Own::apply(gradients, c, own, packed.unpack<std::vector<bool>>());
  }

  SavedVariable x_, h_0_, c_0_, batch_sizes_, lengths_, reset_, h_mask_, zoneout_seed_;
  std::vector<SavedVariable> weights_, reset_state_;
  std::string cell_;
  int64_t directions_ = 1;
  bool has_bias_ = true, batch_first_ = false, layer_norm_ = false;
  double zoneout_h_ = 0, zoneout_c_ = 0;
};

}  // namespace fastrnn
