#include <ATen/Parallel.h>

#include <algorithm>

#include "runtime/isa.h"
#include "runtime/run.h"
#include "torch/checked_layer.h"
#include "torch/operators.h"
#include "torch/panels.h"
#include "torch/segments.h"
#include "torch/tensors.h"

namespace fastrnn {
namespace {

using at::Tensor;

// The panels of a frozen layer, packed by the kernels of the instruction set in use. `weights` are as in Layer,
// `scales` [w_ih, w_hh] of each direction, or none.
template <class S>
Tensor pack_panels(const Layer& layer, const Tensors& weights, const Tensors& scales) {
  Tensors prepared, prepared_scales;
  for (const Tensor& t : weights) prepared.push_back(t.contiguous());
  for (const Tensor& t : scales) prepared_scales.push_back(t.contiguous());
  std::vector<FrozenWeights<S>> pointers;
  for (int64_t d = 0; d < layer.n.D; ++d) {
    const Tensor* w = prepared.data() + d * layer.options.weights();
    const Tensor* scale = prepared_scales.data() + 2 * d;
    pointers.push_back({const_pointer<S>(w[0]), const_pointer<S>(w[1]),
                        layer.options.has_bias ? const_pointer<float>(w[2]) : nullptr,
                        layer.options.has_bias ? const_pointer<float>(w[3]) : nullptr,
                        scales.empty() ? nullptr : const_pointer<float>(scale[0]),
                        scales.empty() ? nullptr : const_pointer<float>(scale[1])});
  }
  const FrozenKernels<S>& kernels = frozen_kernels<S>();
  Tensor panels = at::empty({kernels.panel_bytes(layer.options.cell, layer.n)}, at::kByte);
  kernels.pack(layer.options.cell, layer.n, pointers.data(), static_cast<char*>(panels.mutable_data_ptr()));
  return panels;
}

template <class S>
void run_as(const Layer& layer, const Tensor& x, const ReadyList& initial, at::TensorList given, const Tensors& weights,
            const Tensors& scales, const Noise& noise, Output& out) {
  const Tensor panels = remembered_panels(given, &frozen_kernels<S>(), layer.options.cell, layer.n.D,
                                          [&] { return pack_panels<S>(layer, weights, scales); });
  FrozenArgs args;
  args.sizes = layer.n;
  args.x_rows = layer.batch.x_rows(), args.rows = layer.batch.rows();
  args.x = const_pointer<float>(x);
  args.h_0 = initial.empty() ? nullptr : const_pointer<float>(*initial[0]);
  args.panels = static_cast<const char*>(panels.const_data_ptr());
  args.y = pointer<float>(out.y);
  args.h_T = pointer<float>(out.final_state[0]);
  args.cell_state = layer.facts.states > 1 ? pointer<float>(out.final_state[1]) : nullptr;
  args.zoneout.h = noise.zoneout_h, args.zoneout.c = noise.zoneout_c;
  run_frozen<S>(layer.options.cell, args, at::get_num_threads());
}

// A call, and what its list of weights holds beside those of a layer.
struct FrozenCall {
  Call call;  // with the matrices and biases alone
  at::TensorList given;
  Tensors scales;
  at::ScalarType stored;
};

Output run(const FrozenCall& f, const Layer& layer, at::TensorList state) {
  const ReadyList initial = prepare(state, at::kFloat);
  Output out = allocate_output(layer, initial, at::kFloat, at::kFloat, FinalHidden::kOwn);
  if (layer.empty()) return out;
  const Ready input = prepare_input(layer, f.call.x, at::kFloat);
  if (f.stored == at::kChar)
    run_as<int8_t>(layer, *input, initial, f.given, f.call.weights, f.scales, f.call.noise, out);
  else
    run_as<BFloat16>(layer, *input, initial, f.given, f.call.weights, f.scales, f.call.noise, out);
  return out;
}

}  // namespace

std::tuple<Tensor, Tensors> frozen_forward(const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                           at::TensorList weights, const OptionalTensor& batch_sizes,
                                           std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
                                           const OptionalTensor& lengths, const OptionalTensor& reset,
                                           const OptionalTensor& h_reset, const OptionalTensor& c_reset,
                                           double zoneout_h, double zoneout_c) {
  TORCH_CHECK(x.scalar_type() == at::kFloat, "fastrnn: expected a float32 input, got ", x.scalar_type());
  TORCH_CHECK(!weights.empty(), "fastrnn: expected weights, got none");
  const at::ScalarType stored = weights[0].scalar_type();
  TORCH_CHECK(stored == at::kBFloat16 || stored == at::kChar, "fastrnn: expected weights in bfloat16 or int8, got ",
              stored);
  const size_t plain = has_bias ? 4 : 2, per_direction = plain + (stored == at::kChar ? 2 : 0);
  TORCH_CHECK(weights.size() == directions * per_direction, "fastrnn: expected ", per_direction,
              " weights per direction, got ", weights.size(), " for ", directions);
  Tensors matrices, scales;
  for (size_t i = 0; i < weights.size(); ++i) (i % per_direction < plain ? matrices : scales).push_back(weights[i]);
  const FrozenCall f{call_of(x, h_0, c_0, matrices, batch_sizes, cell, directions, has_bias, batch_first, lengths,
                             reset, h_reset, c_reset, Noise{{}, zoneout_h, zoneout_c, {}}, /*layer_norm=*/false),
                     weights, scales, stored};
  const States state = f.call.state();
  const Layer layer(x, state, matrices, f.call.options(), f.call.batch_sizes, stored);
  TORCH_CHECK(!layer.has_members, "fastrnn: expected frozen weights of 2 dimensions, got ", weights[1].sizes());
  const int64_t rows = layer.facts.gates * layer.n.H;
  for (const Tensor& t : scales)
    TORCH_CHECK(t.sizes() == at::IntArrayRef({rows}) && t.scalar_type() == at::kFloat && t.is_cpu(),
                "fastrnn: expected scales float32 [", rows, "] on the CPU, got ", t.scalar_type(), " ", t.sizes(),
                " on ", t.device());
  constexpr int64_t most = 65536;  // products that are summed in 32 bits
  TORCH_CHECK(stored == at::kBFloat16 || std::max(layer.n.I, layer.n.H) <= most, "fastrnn: expected at most ", most,
              " inputs and units with int8 weights, got ", layer.n.I, " and ", layer.n.H);

  layer.check_noise(f.call.noise, x);

  const auto run_on = [&](const Layer& of, at::TensorList initial, const Noise&) { return run(f, of, initial); };
  Output out = f.call.segmented() ? segmented_forward(layer, f.call, run_on) : run(f, layer, state);
  return {std::move(out.y), Tensors(out.final_state.begin(), out.final_state.end())};
}

}  // namespace fastrnn
