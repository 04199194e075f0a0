#include "operators.h"

#include <ATen/Parallel.h>
#include <c10/util/SmallVector.h>
#include <torch/library.h>

#include "dispatch.h"

namespace fastrnn {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

constexpr std::pair<std::string_view, CellKind> kCells[] = {
    {"rnn_tanh", CellKind::kRnnTanh},
    {"rnn_relu", CellKind::kRnnRelu},
    {"lstm", CellKind::kLstm},
    {"gru", CellKind::kGru},
};

}  // namespace

std::vector<std::string> cell_names() {
  std::vector<std::string> names;
  for (const auto& [name, kind] : kCells) names.emplace_back(name);
  return names;
}

CellKind cell_kind(std::string_view wanted) {
  for (const auto& [name, kind] : kCells)
    if (name == wanted) return kind;
  TORCH_CHECK(false, "fastrnn: unknown cell '", wanted, "', expected one of ", cell_names());
}

namespace {

// A layer's sizes and rows, checked: what the kernels read through raw pointers is known to be there.
struct Layer {
  CellKind kind;
  CellFacts facts;
  Sizes n{};
  int64_t per_direction;
  bool has_bias, projected;
  c10::SmallVector<int64_t, 16> first, active;
  int64_t row_stride = 1;
  c10::SmallVector<int64_t, 3> y_shape;

  Layer(const Tensor& x, at::TensorList state, at::TensorList weights, const std::optional<Tensor>& batch_sizes,
        std::string_view cell, int64_t directions, bool has_bias_, bool batch_first)
      : kind(cell_kind(cell)), facts(instruction_set().facts(kind)), has_bias(has_bias_) {
    TORCH_CHECK(directions == 1 || directions == 2, "fastrnn: expected 1 or 2 directions, got ", directions);
    n.D = directions;
    per_direction = int64_t(weights.size()) / n.D;
    const int64_t plain = has_bias ? 4 : 2;
    projected = per_direction == plain + 1;
    TORCH_CHECK(int64_t(weights.size()) == n.D * per_direction && (projected || per_direction == plain),
                "fastrnn: expected ", plain, " weights (", plain + 1, " with a projection) per direction, got ",
                weights.size(), " for ", n.D);
    TORCH_CHECK(!projected || facts.may_be_projected, "fastrnn: expected no projection for cell ", cell, ", got one");
    TORCH_CHECK(weights[1].dim() == 2 && weights[1].size(0) % facts.gates == 0, "fastrnn: expected weight_hh [",
                facts.gates, " * hidden_size, outputs], got ", weights[1].sizes());
    n.H = weights[1].size(0) / facts.gates;
    n.P = weights[1].size(1);
    TORCH_CHECK(x.dim() == (batch_sizes ? 2 : 3), "fastrnn: expected ", batch_sizes ? "a packed input of 2" : "3",
                " dimensions, got ", x.dim());
    n.I = x.size(-1);
    set_rows(x, state, batch_sizes, batch_first);
    check(x, state, weights);
  }

  Rows rows() const { return {first.data(), active.data(), row_stride}; }
  bool empty() const { return n.N == 0; }

 private:
  void set_rows(const Tensor& x, at::TensorList state, const std::optional<Tensor>& batch_sizes, bool batch_first) {
    y_shape.assign(x.sizes().begin(), x.sizes().end());
    y_shape.back() = n.D * n.P;
    if (!batch_sizes) {
      n.T = x.size(batch_first ? 1 : 0), n.B = x.size(batch_first ? 0 : 1), n.N = n.T * n.B;
      TORCH_CHECK(n.T > 0, "Expected sequence length to be larger than 0 in RNN");
      row_stride = batch_first ? n.T : 1;
      first.resize(n.T), active.assign(n.T, n.B);
      for (int64_t t = 0; t < n.T; ++t) first[t] = batch_first ? t : t * n.B;
      return;
    }
    TORCH_CHECK(!state.empty() && state[0].dim() == 3,
                "fastrnn: expected initial states [D, B, P] with a packed input, got ",
                state.empty() ? "none" : std::to_string(state[0].dim()) + " dimensions");
    TORCH_CHECK(batch_sizes->dim() == 1 && batch_sizes->scalar_type() == at::kLong && batch_sizes->is_cpu() &&
                    batch_sizes->size(0) > 0,
                "fastrnn: expected batch_sizes to be int64 [T] on the CPU, T > 0, got ", batch_sizes->scalar_type(),
                " ", batch_sizes->sizes(), " on ", batch_sizes->device());
    const Tensor sizes = batch_sizes->contiguous();
    n.T = sizes.size(0), n.B = state[0].size(1);
    active.assign(sizes.const_data_ptr<int64_t>(), sizes.const_data_ptr<int64_t>() + n.T);
    for (int64_t t = 0; t < n.T; ++t) {
      TORCH_CHECK(active[t] > 0 && active[t] <= (t ? active[t - 1] : n.B),
                  "fastrnn: expected batch_sizes that do not increase, from ", n.B, " to no less than 1, got ",
                  active[t], " at step ", t);
      first.push_back(n.N);
      n.N += active[t];
    }
    TORCH_CHECK(active[0] == n.B && n.N == x.size(0), "fastrnn: batch_sizes begin with ", active[0], " and add up to ",
                n.N, ", expected ", n.B, " and ", x.size(0));
  }

  void check(const Tensor& x, at::TensorList state, at::TensorList weights) const {
    const auto expect = [&](const Tensor& t, std::initializer_list<int64_t> shape, const char* name) {
      TORCH_CHECK(t.sizes() == at::IntArrayRef(shape), "fastrnn: expected ", name, " of shape ", at::IntArrayRef(shape),
                  ", got ", t.sizes());
      TORCH_CHECK(t.scalar_type() == x.scalar_type() && t.device() == x.device(), "fastrnn: expected ", name, " as ",
                  x.scalar_type(), " on ", x.device(), " like the input, got ", t.scalar_type(), " on ", t.device());
    };
    const int64_t gates = facts.gates * n.H;
    for (int64_t d = 0; d < n.D; ++d) {
      const auto w = weights.slice(d * per_direction, per_direction);
      expect(w[0], {gates, n.I}, "weight_ih");
      expect(w[1], {gates, n.P}, "weight_hh");
      if (has_bias) expect(w[2], {gates}, "bias_ih"), expect(w[3], {gates}, "bias_hh");
      if (projected) expect(w[per_direction - 1], {n.P, n.H}, "weight_hr");
    }
    TORCH_CHECK(projected || n.P == n.H, "fastrnn: expected weight_hh with ", n.H, " columns, got ", n.P);
    const size_t states = facts.has_memory ? 2 : 1;
    TORCH_CHECK(state.empty() || state.size() == states, "fastrnn: expected ", states, " initial states or none, got ",
                state.size());
    if (!state.empty()) expect(state[0], {n.D, n.B, n.P}, "h_0");
    if (state.size() > 1) expect(state[1], {n.D, n.B, n.H}, "c_0");
  }
};

// Sums, gates and the cell's own state of 16-bit tensors are float32, rounded once on the way out.
at::ScalarType real_type(const Tensor& x) {
  const at::ScalarType type = x.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf,
              "fastrnn: expected float32, float64, bfloat16 or float16, got ", type);
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// What the products take, and so x, h, y and the weights: 16-bit tensors too, unless the processor multiplies them.
at::ScalarType product_type(const Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && instruction_set().bf16 ? at::kBFloat16 : real_type(x);
}

// Asked before torch is: a conversion that does nothing costs 0.3 us.
Tensor convert(const Tensor& t, at::ScalarType type) { return t.scalar_type() == type ? t : t.to(type); }
Tensor prepare(const Tensor& t, at::ScalarType type) {
  const Tensor converted = convert(t, type);
  return converted.is_contiguous() ? converted : converted.contiguous();
}

// A prepared tensor to write to: a copy, unless preparing it has made one.
Tensor own(const Tensor& prepared, const Tensor& given) {
  return prepared.is_same(given) ? prepared.clone() : prepared;
}

Tensors prepare(at::TensorList list, at::ScalarType type) {
  Tensors out;
  out.reserve(list.size());
  for (const Tensor& t : list) out.push_back(prepare(t, type));
  return out;
}

// h, which products take, and the state that only the cell sees.
Tensors prepare_states(at::TensorList state, at::ScalarType type, at::ScalarType real) {
  Tensors out;
  for (const Tensor& t : state) out.push_back(prepare(t, out.empty() ? type : real));
  return out;
}

Tensor allocate(at::IntArrayRef shape, at::TensorOptions options) {
  Tensor t = at::empty(shape, options);
  prefer_large_pages(t.data_ptr(), t.nbytes());
  return t;
}

// The kernels have their own name for torch's type.
template <class T>
using InTorch = std::conditional_t<std::is_same_v<T, BFloat16>, at::BFloat16, T>;

template <class T>
const T* read(const Tensor& t) {
  return t.defined() ? reinterpret_cast<const T*>(t.const_data_ptr<InTorch<T>>()) : nullptr;
}
template <class T>
T* write(Tensor& t) {
  return t.defined() ? reinterpret_cast<T*>(t.mutable_data_ptr<InTorch<T>>()) : nullptr;
}

// f.operator()<T>() for what the products take.
template <class F>
void with_type(at::ScalarType type, F&& f) {
  if (type == at::kDouble)
    f.template operator()<double>();
  else if (type == at::kBFloat16)
    f.template operator()<BFloat16>();
  else
    f.template operator()<float>();
}

template <class T>
std::vector<Weights<T>> weight_pointers(const Layer& layer, const Tensors& weights) {
  std::vector<Weights<T>> out;
  for (int64_t d = 0; d < layer.n.D; ++d) {
    const Tensor* w = weights.data() + d * layer.per_direction;
    out.push_back({read<T>(w[0]), read<T>(w[1]), layer.has_bias ? read<T>(w[2]) : nullptr,
                   layer.has_bias ? read<T>(w[3]) : nullptr,
                   layer.projected ? read<T>(w[layer.per_direction - 1]) : nullptr});
  }
  return out;
}

template <class T>
void forward_as(const Layer& layer, const Tensor& x, const Tensors& state, const Tensors& weights, Tensor& y,
                Tensors& final_state, Tensor& saved) {
  const auto pointers = weight_pointers<T>(layer, weights);
  ForwardArgs<T> args;
  args.sizes = layer.n;
  args.rows = layer.rows();
  args.x = read<T>(x);
  args.h_0 = state.empty() ? nullptr : read<T>(state[0]);
  args.weights = pointers.data();
  args.y = write<T>(y);
  args.h_T = write<T>(final_state[0]);
  args.memory = layer.facts.has_memory ? write<Real<T>>(final_state[1]) : nullptr;
  args.saved = saved.numel() ? write<Real<T>>(saved) : nullptr;
  run_forward(layer.kind, args, at::get_num_threads());
}

template <class T>
void backward_as(const Layer& layer, const Tensor& dy, const Tensor& dh_T, const Tensor& x, const Tensors& state,
                 const Tensors& weights, const Tensor& y, const Tensor& saved, Tensor& dx, Tensor& dh_0, Tensor& carry,
                 Tensors& dweights) {
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
  args.h_0 = state.empty() ? nullptr : read<T>(state[0]);
  args.memory_0 = state.size() > 1 ? read<Real<T>>(state[1]) : nullptr;
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

}  // namespace

std::tuple<Tensor, Tensors, Tensor> layer_forward(const Tensor& x, at::TensorList state, at::TensorList weights,
                                                  const std::optional<Tensor>& batch_sizes, std::string_view cell,
                                                  int64_t directions, bool has_bias, bool batch_first, bool save) {
  const Layer layer(x, state, weights, batch_sizes, cell, directions, has_bias, batch_first);
  const Sizes& n = layer.n;
  const at::ScalarType type = product_type(x), real = real_type(x);
  const auto options = x.options().dtype(type), real_options = x.options().dtype(real);
  Tensor y = allocate(layer.y_shape, options);
  const int64_t kept = save ? n.N : 0;
  Tensor saved = allocate({n.D, kept, layer.facts.saved * n.H}, real_options);
  const Tensors initial = prepare_states(state, type, real);
  Tensors final_state;
  final_state.push_back(layer.empty() ? at::zeros({n.D, n.B, n.P}, options) : at::empty({n.D, n.B, n.P}, options));
  // The kernel advances the cell's own state in place, from the initial to the final one.
  if (layer.facts.has_memory)
    final_state.push_back(state.empty() ? at::zeros({n.D, n.B, n.H}, real_options) : own(initial[1], state[1]));
  if (!layer.empty()) {
    const Tensor input = prepare(x, type);
    const Tensors prepared = prepare(weights, type);
    with_type(type, [&]<class T>() { forward_as<T>(layer, input, initial, prepared, y, final_state, saved); });
  }
  for (Tensor& s : final_state) s = convert(s, x.scalar_type());
  return {convert(y, x.scalar_type()), std::move(final_state), saved};
}

Tensors layer_backward(const std::optional<Tensor>& dy, const c10::List<std::optional<Tensor>>& dstate, const Tensor& x,
                       at::TensorList state, at::TensorList weights, const Tensor& y, const Tensor& saved,
                       const std::optional<Tensor>& batch_sizes, std::string_view cell, int64_t directions,
                       bool has_bias, bool batch_first, const c10::List<bool>& needed) {
  const Layer layer(x, state, weights, batch_sizes, cell, directions, has_bias, batch_first);
  const Sizes& n = layer.n;
  const at::ScalarType type = product_type(x), real = real_type(x);
  const auto options = x.options().dtype(real);
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
    return prepare(*t, as);
  };
  const Tensor dy_ = optional(dy, layer.y_shape, "dy", type);
  const Tensor dh_T = optional(dstate.get(0), {n.D, n.B, n.P}, "dh_T", type);
  const Tensor dmemory_T = states > 1 ? optional(dstate.get(1), {n.D, n.B, n.H}, "dc_T", real) : Tensor();

  Tensor dx = needed.get(0) ? allocate(x.sizes(), options) : Tensor();
  Tensor dh_0 = !state.empty() && needed.get(1) ? at::empty({n.D, n.B, n.P}, options) : Tensor();
  Tensor carry;
  if (layer.facts.has_carry)
    carry = dmemory_T.defined() ? own(dmemory_T, *dstate.get(1)) : at::zeros({n.D, n.B, n.H}, options);
  Tensors dweights(weights.size());
  for (size_t i = 0; i < weights.size(); ++i)
    if (needed.get(1 + state.size() + i))
      dweights[i] = layer.empty() ? at::zeros(weights[i].sizes(), options) : allocate(weights[i].sizes(), options);

  if (layer.empty()) {
    if (dh_0.defined()) dh_0.zero_();
  } else {
    const Tensor input = prepare(x, type), output = prepare(y, type), values = prepare(saved, real);
    const Tensors initial = prepare_states(state, type, real), prepared = prepare(weights, type);
    with_type(type, [&]<class T>() {
      backward_as<T>(layer, dy_, dh_T, input, initial, prepared, output, values, dx, dh_0, carry, dweights);
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
