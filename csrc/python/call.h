// What a module's forward computes, straight from the module's own parameters.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string_view>

#include "runtime/layer.h"

namespace fastrnn {

// Layers one after another, each of the same options.
struct Stack {
  LayerOptions options;
  int64_t layers;
};

// A module's, as it names them; nothing where the cell is not compiled in. `weights` counts those of all layers.
std::optional<Stack> stack_of(std::string_view cell, Form form, int64_t layers, int64_t directions, bool has_bias,
                              int64_t weights);

// y and hx of a stack of layers, or None where the arguments, or a mode in force, ask for more than the kernels do:
// then the way through the operators answers, or says what is wrong. `parameters` is a module's dictionary, `names` in
// the order of torch.nn.RNNBase.all_weights, `input` [T, B, I] or [B, T, I], `hx` None, a tensor or a tuple of tensors,
// `lengths` and `reset` None or a tensor.
//
// A step of one row takes 2 us; this way adds 3 us to it, from the call of the module on, the operators 12.
pybind11::object call_layers(const pybind11::dict& parameters, const pybind11::list& names,
                             const pybind11::object& input, const pybind11::object& hx, const pybind11::object& lengths,
                             const pybind11::object& reset, const std::optional<Stack>& stack);

// The same for one step of a cell module: `input` [B, I], states [B, H]; gives the new hx.
pybind11::object call_cell(const pybind11::dict& parameters, const pybind11::list& names, const pybind11::object& input,
                           const pybind11::object& hx, const std::optional<Stack>& stack);

}  // namespace fastrnn
