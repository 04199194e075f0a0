#include "torch/operators.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "runtime/run.h"
#include "torch/by_sample.h"
#include "torch/checked_layer.h"
#include "torch/segments.h"
#include "torch/tensors.h"

namespace fastrnn {

using at::Tensor;

namespace {

// Where each member's part of a tensor begins; null for a tensor that is not there.
template <class T>
struct MemberPointer {
  T* first;
  int64_t stride;

  T* operator[](int64_t member) const { return first ? first + member * stride : nullptr; }
};

template <class T>
MemberPointer<const T> read(const Tensor& t, int64_t members) {
  return {const_pointer<T>(t), t.defined() ? t.numel() / members : 0};
}
template <class T>
MemberPointer<const T> read(const ReadyList& list, size_t i, int64_t members) {
  return i < list.size() ? read<T>(*list[i], members) : MemberPointer<const T>{};
}
template <class T>
MemberPointer<T> written(Tensor& t, int64_t members) {
  return {pointer<T>(t), t.defined() ? t.numel() / members : 0};
}

// Weights or their gradients of direction d, by pointer_to(number): null where there is none.
template <class To, class F>
To by_direction(const Layer& layer, int64_t d, F pointer_to) {
  const LayerOptions& options = layer.options;
  const bool biased = options.has_bias, norm = options.layer_norm, norm_of_state = norm && layer.facts.states > 1;
  int64_t next = d * options.weights();
  const auto take = [&](bool there) { return there ? pointer_to(next++) : nullptr; };
  return {take(!norm), take(true),          take(biased && !norm),        take(biased), take(options.projected),
          take(norm),  take(norm_of_state), take(norm_of_state && biased)};
}

// Those of each member and direction.
template <class T>
c10::SmallVector<Weights<T>, 2> weight_pointers(const Layer& layer, const ReadyList& weights) {
  c10::SmallVector<Weights<T>, 2> out;
  for (int64_t e = 0; e < layer.members; ++e)
    for (int64_t d = 0; d < layer.n.D; ++d)
      out.push_back(
          by_direction<Weights<T>>(layer, d, [&](int64_t i) { return read<T>(weights, i, layer.members)[e]; }));
  return out;
}

// That of each member.
Zoneout zoneout_of(const Noise& noise, int64_t member) {
  Zoneout out{noise.zoneout_h, noise.zoneout_c, noise.zoneout_seed.defined()};
  if (!out || !out.drawn) return out;
  const Tensor seed = noise.zoneout_seed.contiguous();
  const int64_t* values = seed.const_data_ptr<int64_t>() + 2 * member;
  out.key = uint64_t(values[0]), out.first_row = values[1];
  return out;
}

template <class T, class Q>
void forward_as(const Layer& layer, const Tensor& x, const ReadyList& state, const ReadyList& weights,
                const Noise& noise, Output& out, Tensor& saved, Tensor& cell_states) {
  const int64_t members = layer.members;
  const auto pointers = weight_pointers<T>(layer, weights);
  const bool shared = out.final_state[0].is_same(out.y), has_cell_state = layer.facts.states > 1;
  Tensor none;
  Tensor &h_T = shared ? none : out.final_state[0], &cell_state = has_cell_state ? out.final_state[1] : none;
  const auto x_at = read<T>(x, members), h_0 = read<T>(state, 0, members);
  const auto y = written<T>(out.y, members), h_T_at = written<T>(h_T, members);
  const auto cell_state_at = written<Real<T>>(cell_state, members), saved_at = written<Real<T>>(saved, members);
  const auto cell_states_at = written<Real<T>>(cell_states, members);
  const auto h_mask = read<T>(noise.h_mask, members);
  c10::SmallVector<ForwardArgs<T>, 1> layers;
  for (int64_t e = 0; e < members; ++e)
    layers.push_back({layer.kernel_sizes(), layer.batch.x_rows(), layer.batch.rows(), x_at[e], h_0[e],
                      pointers.data() + e * layer.n.D, y[e], h_T_at[e], cell_state_at[e], saved_at[e],
                      cell_states_at[e], h_mask[e], zoneout_of(noise, e)});
  run_forward<T, Q>(layer.options.cell, layers, at::get_num_threads());
}

// What backward reads, prepared; gradients from outside that are not there are zeros.
struct BackwardInputs {
  Tensor dy, dh_T, dcell_states;
  Ready x;
  ReadyList state, weights;
  Ready y, saved;
  Noise noise;
};

// What it writes, as far as it is asked for.
struct Gradients {
  Tensor x, h_0, carry, h_carry;
  Tensors weights;
  ByRow by_row;
};

template <class T, class Q>
void backward_as(const Layer& layer, const BackwardInputs& in, Gradients& out) {
  const int64_t members = layer.members;
  const auto weights = weight_pointers<T>(layer, in.weights);
  std::vector<WeightGradients<Real<T>>> gradients;
  for (int64_t e = 0; e < members; ++e)
    for (int64_t d = 0; d < layer.n.D; ++d)
      gradients.push_back(by_direction<WeightGradients<Real<T>>>(
          layer, d, [&](int64_t i) { return written<Real<T>>(out.weights[i], members)[e]; }));
  const auto x = read<T>(*in.x, members), y = read<T>(*in.y, members);
  const auto h_0 = read<T>(in.state, 0, members);
  const auto cell_state_0 = read<Real<T>>(in.state, 1, members), saved = read<Real<T>>(*in.saved, members);
  const auto dy = read<T>(in.dy, members), dh_T = read<T>(in.dh_T, members);
  const auto dcell_states = read<Real<T>>(in.dcell_states, members);
  const auto dx = written<Real<T>>(out.x, members), dh_0 = written<Real<T>>(out.h_0, members);
  const auto carry = written<Real<T>>(out.carry, members), h_carry = written<Real<T>>(out.h_carry, members);
  const auto h_mask = read<T>(in.noise.h_mask, members);
  const auto dsums = written<T>(out.by_row.dsums, members), dh = written<T>(out.by_row.dh, members);
  const auto h = written<T>(out.by_row.h, members);
  c10::SmallVector<BackwardArgs<T>, 1> layers;
  for (int64_t e = 0; e < members; ++e)
    layers.push_back({layer.kernel_sizes(),
                      layer.batch.x_rows(),
                      layer.batch.rows(),
                      x[e],
                      h_0[e],
                      cell_state_0[e],
                      weights.data() + e * layer.n.D,
                      y[e],
                      saved[e],
                      dy[e],
                      dh_T[e],
                      dx[e],
                      dh_0[e],
                      carry[e],
                      gradients.data() + e * layer.n.D,
                      {dsums[e], dh[e], h[e]},
                      dcell_states[e],
                      h_mask[e],
                      zoneout_of(in.noise, e),
                      h_carry[e]});
  run_backward<T, Q>(layer.options.cell, layers, at::get_num_threads());
}

// New, step by step in memory, and [B, T, width] for a batch-first layer; zeros where not all of it will be written.
Tensor allocate_rows(const Layer& layer, int64_t width, at::ScalarType type) {
  Extent extent = layer.step_extent(width);
  Tensor t = layer.n.N < layer.sequence_rows() ? zeros(extent, type) : allocate(extent, type);
  if (layer.options.form != Form::kBatchFirst) return t;
  Extent strides(t.strides().begin(), t.strides().end());
  const int first = layer.has_members;
  std::swap(extent[first], extent[first + 1]);
  std::swap(strides[first], strides[first + 1]);
  t.unsafeGetTensorImpl()->set_sizes_and_strides(extent, strides);
  return t;
}

// As the kernels read it.
Noise prepared_noise(const Noise& noise, at::ScalarType type) {
  Noise out = noise;
  if (out.h_mask.defined()) out.h_mask = *prepare(out.h_mask, type);
  return out;
}

// `saved` and the cell state of every step are written where they are asked for.
Output run_layer(const Layer& layer, const Tensor& x, at::TensorList state, at::TensorList weights, const Noise& noise,
                 Tensor& saved, bool every_state, FinalHidden hidden) {
  const at::ScalarType type = kernel_type(x), real = real_type(x);
  const ReadyList initial = prepare_states(state, type, real);
  Output out = allocate_output(layer, initial, type, real, hidden);
  Tensor cell_states;
  if (every_state && layer.facts.states > 1) cell_states = allocate(layer.every_state_extent(), real);
  if (!layer.empty()) {
    const Ready input = prepare_input(layer, x, type);
    const ReadyList prepared = prepare(weights, type);
    const Noise as_type = prepared_noise(noise, type);
    with_types(type, rounds_products(type, layer.n), [&]<class T, class Q>() {
      forward_as<T, Q>(layer, *input, initial, prepared, as_type, out, saved, cell_states);
    });
  }
  if (cell_states.defined()) out.final_state.push_back(std::move(cell_states));
  if (x.scalar_type() == real) return out;
  const bool shared = out.final_state[0].is_same(out.y);
  out.y = convert(out.y, x.scalar_type());
  for (Tensor& s : out.final_state) s = convert(s, x.scalar_type());
  if (shared) out.final_state[0] = out.y;
  return out;
}

}  // namespace

Noise noise_of(const OptionalTensor& h_mask, double zoneout_h, double zoneout_c, const OptionalTensor& zoneout_seed) {
  return {or_undefined(h_mask), zoneout_h, zoneout_c, or_undefined(zoneout_seed)};
}

Call call_of(const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
             const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias,
             bool batch_first, const OptionalTensor& lengths, const OptionalTensor& reset,
             const OptionalTensor& h_reset, const OptionalTensor& c_reset, Noise noise, bool layer_norm) {
  return {x,
          or_undefined(h_0),
          or_undefined(c_0),
          weights.vec(),
          or_undefined(batch_sizes),
          std::string(cell),
          directions,
          has_bias,
          batch_first,
          or_undefined(lengths),
          or_undefined(reset),
          given(or_undefined(h_reset), or_undefined(c_reset)),
          std::move(noise),
          layer_norm};
}

void check_state_gradients(const Tensors& dstate, const CellFacts& facts) {
  const size_t states = facts.states;
  TORCH_CHECK(dstate.size() == states || (states > 1 && dstate.size() == states + 1), "fastrnn: expected ", states,
              " final-state gradients", states > 1 ? ", or one more" : "", ", got ", dstate.size());
}

Ready prepare_input(const Layer& layer, const Tensor& x, at::ScalarType type) {
  const bool batch_first = layer.options.form == Form::kBatchFirst;
  if (batch_first == layer.x_by_sequence) return prepare(x, type);
  return Ready::owned(*prepare(x.transpose(layer.has_members, layer.has_members + 1), type));
}

Output allocate_output(const Layer& layer, const ReadyList& initial, at::ScalarType type, at::ScalarType real,
                       FinalHidden hidden) {
  Output out;
  out.y = allocate_rows(layer, layer.n.D * layer.n.P, type);
  const Extent h_extent = layer.state_extent(0);
  if (layer.options.one_step() && hidden == FinalHidden::kOfOneStepShared)
    out.final_state.push_back(out.y);
  else
    out.final_state.push_back(layer.empty() ? zeros(h_extent, type) : allocate(h_extent, type));
  if (layer.facts.states > 1) {
    const Tensor* cell_state_0 = initial.empty() ? nullptr : &*initial[1];
    out.final_state.push_back(copy_of(cell_state_0, layer.state_extent(1), real));
  }
  return out;
}

Output infer_layer(const Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options) {
  Tensor nothing_saved;
  return run_layer({x, state, weights, options}, x, state, weights, /*noise=*/{}, nothing_saved, /*every_state=*/false,
                   FinalHidden::kOfOneStepShared);
}

std::tuple<Tensor, Tensors, Tensor> layer_forward(const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0,
                                                  at::TensorList weights, const OptionalTensor& batch_sizes,
                                                  std::string_view cell, int64_t directions, bool has_bias,
                                                  bool batch_first, bool save, const OptionalTensor& lengths,
                                                  const OptionalTensor& reset, const OptionalTensor& h_reset,
                                                  const OptionalTensor& c_reset, bool every_state,
                                                  bool /*recompute: of interest to autograd*/,
                                                  const OptionalTensor& h_mask, double zoneout_h, double zoneout_c,
                                                  const OptionalTensor& zoneout_seed, bool layer_norm) {
  const Call c = call_of(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first, lengths, reset,
                         h_reset, c_reset, noise_of(h_mask, zoneout_h, zoneout_c, zoneout_seed), layer_norm);
  const States state = c.state();
  const Layer layer(x, state, weights, c.options(), c.batch_sizes);
  layer.check_noise(c.noise, x);
  const Sizes& n = layer.n;
  Tensor nothing_saved;
  Tensor saved = allocate(layer.extent({n.D, save ? n.N : 0, layer.saved_width(c.noise)}), real_type(x));
  const auto run = [&](const Layer& of, at::TensorList initial, const Noise& noise) {
    return run_layer(of, x, initial, weights, noise, save ? saved : nothing_saved, every_state, FinalHidden::kOwn);
  };
  Output out = c.segmented() ? segmented_forward(layer, c, run) : run(layer, state, c.noise);
  return {std::move(out.y), Tensors(out.final_state.begin(), out.final_state.end()), std::move(saved)};
}

Tensors layer_backward(const OptionalTensor& dy, const OptionalTensors& dstate, const Tensor& x,
                       const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights, const Tensor& y,
                       const Tensor& saved, const OptionalTensor& batch_sizes, std::string_view cell,
                       int64_t directions, bool has_bias, bool batch_first, const c10::List<bool>& needed,
                       int64_t samples, const OptionalTensor& lengths, const OptionalTensor& reset,
                       const OptionalTensor& h_reset, const OptionalTensor& c_reset, const OptionalTensor& h_mask,
                       double zoneout_h, double zoneout_c, const OptionalTensor& zoneout_seed, bool layer_norm) {
  const Call c = call_of(x, h_0, c_0, weights, batch_sizes, cell, directions, has_bias, batch_first, lengths, reset,
                         h_reset, c_reset, noise_of(h_mask, zoneout_h, zoneout_c, zoneout_seed), layer_norm);
  Backward given{or_undefined(dy), {}, y, saved, {needed.begin(), needed.end()}, samples};
  for (size_t i = 0; i < dstate.size(); ++i) given.dstate.push_back(or_undefined(dstate.get(i)));
  const States state = c.state();
  const Layer layer(x, state, weights, c.options(), c.batch_sizes);
  layer.check_noise(c.noise, x);
  return c.segmented() ? segmented_backward(layer, c, given) : backward(layer, x, state, weights, c.noise, given);
}

Tensors backward(const Layer& layer, const Tensor& x, at::TensorList state, at::TensorList weights, const Noise& noise,
                 const Backward& given) {
  const Tensor &y = given.y, &saved = given.saved;
  const LayerOptions& options = layer.options;
  const std::vector<bool>& needed = given.needed;
  const int64_t samples = given.samples;
  const Sizes& n = layer.n;
  const at::ScalarType type = kernel_type(x), real = real_type(x);
  const size_t states = layer.facts.states;
  TORCH_CHECK(needed.size() == 1 + state.size() + weights.size(), "fastrnn: expected ",
              1 + state.size() + weights.size(), " flags in needed, got ", needed.size());
  check_state_gradients(given.dstate, layer.facts);
  const Rows rows = layer.batch.rows();
  TORCH_CHECK(samples == 1 || !options.layer_norm, "fastrnn: expected no gradients by sample of a normalised layer");
  TORCH_CHECK(samples > 0 && std::all_of(rows.active, rows.active + n.T, [&](int64_t b) { return b % samples == 0; }),
              "fastrnn: expected rows of each of ", samples, " samples at every step, got a batch of ", n.B);
  const Extent saved_extent = layer.extent({n.D, layer.sequence_rows(), layer.saved_width(noise)});
  const Tensor y_by_step = layer.swapped(y);
  TORCH_CHECK(y_by_step.sizes() == at::IntArrayRef(layer.step_extent(n.D * n.P)) &&
                  saved.sizes() == at::IntArrayRef(saved_extent) && saved.scalar_type() == real &&
                  y.device() == x.device() && saved.device() == x.device(),
              "fastrnn: expected y and saved of this layer's forward, got ", y.sizes(), " and ", saved.scalar_type(),
              " ", saved.sizes());

  const auto outside = [&](const Tensor& t, at::IntArrayRef shape, const char* name) {
    TORCH_CHECK(!t.defined() || (t.sizes() == shape && t.device() == x.device()), "fastrnn: expected ", name,
                " of shape ", shape, " on ", x.device(), ", got ", t.sizes(), " on ", t.device());
    return t;
  };
  const auto prepared = [](const Tensor& t, at::ScalarType as) {
    return t.defined() ? Tensor(*prepare(t, as)) : Tensor();
  };
  const Extent h_extent = layer.state_extent(0);
  const Extent carry_extent = options.one_step() ? layer.extent({n.B, n.H}) : layer.extent({n.D, n.B, n.H});
  BackwardInputs in;
  const Tensor dy_given = outside(given.dy, y.sizes(), "dy");
  if (dy_given.defined()) in.dy = prepared(layer.swapped(dy_given), type);
  in.dh_T = prepared(outside(given.dstate[0], h_extent, "dh_T"), type);
  const Tensor dcell_state_T =
      states > 1 ? prepared(outside(given.dstate[1], layer.state_extent(1), "dc_T"), real) : Tensor();
  if (given.dstate.size() > states)
    in.dcell_states = prepared(outside(given.dstate[states], layer.every_state_extent(), "dc of every step"), real);

  // Of no rows, the kernels write nothing.
  const auto result = [&](at::IntArrayRef shape) { return layer.empty() ? zeros(shape, real) : allocate(shape, real); };
  const size_t first_weight = 1 + state.size();
  Gradients gradients;
  if (needed[0]) gradients.x = allocate_rows(layer, n.I, real);
  if (!state.empty() && needed[1]) gradients.h_0 = result(h_extent);
  if (layer.facts.has_carry)
    gradients.carry = copy_of(dcell_state_T.defined() ? &dcell_state_T : nullptr, carry_extent, real);
  const bool carries_hidden = layer.facts.has_carry && states == 1;
  if (noise.zoneout_h > 0 && !carries_hidden) gradients.h_carry = zeros(carry_extent, real);
  gradients.weights.resize(weights.size());
  bool any_weight = false;
  for (size_t i = 0; i < weights.size(); ++i) any_weight |= needed[first_weight + i];
  if (samples > 1 && any_weight)
    gradients.by_row = allocate_by_row(layer, type);
  else
    for (size_t i = 0; i < weights.size(); ++i)
      if (needed[first_weight + i]) gradients.weights[i] = result(weights[i].sizes());

  if (!layer.empty()) {
    in.x = prepare_input(layer, x, type), in.y = prepare(y_by_step, type), in.saved = prepare(saved, real);
    in.state = prepare_states(state, type, real), in.weights = prepare(weights, type);
    in.noise = prepared_noise(noise, type);
    // Of single samples a bias gradient is a row of what products would take rounded.
    const bool rounds = !gradients.by_row.dsums.defined() && rounds_products(type, n);
    with_types(type, rounds, [&]<class T, class Q>() { backward_as<T, Q>(layer, in, gradients); });
  }
  if (gradients.by_row.dsums.defined()) {
    for (size_t i = 0; i < weights.size(); ++i)
      if (needed[first_weight + i])
        gradients.weights[i] =
            of_weight_by_sample(layer, gradients.by_row, x, state, y, noise.h_mask, samples, int64_t(i));
  }

  Tensors out;
  const auto give = [&](const Tensor& t) { out.push_back(convert(t, x.scalar_type())); };
  if (needed[0]) give(gradients.x);
  if (!state.empty() && needed[1]) give(gradients.h_0);
  if (state.size() > 1 && needed[2]) give(gradients.carry);
  for (const Tensor& w : gradients.weights)
    if (w.defined()) give(w);
  return out;
}

}  // namespace fastrnn
