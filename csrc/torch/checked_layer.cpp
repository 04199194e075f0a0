#include "torch/checked_layer.h"

namespace fastrnn {

using at::Tensor;

CellKind cell_kind(std::string_view name) {
  const std::optional<CellKind> kind = find_cell(name);
  TORCH_CHECK(kind, "fastrnn: unknown cell '", name, "', expected one of ", cell_names());
  return *kind;
}

Form form_of(const std::optional<Tensor>& batch_sizes, bool batch_first) {
  return batch_sizes ? Form::kPacked : batch_first ? Form::kBatchFirst : Form::kTimeFirst;
}

Layer::Layer(const Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options_,
             const std::optional<Tensor>& batch_sizes, std::optional<at::ScalarType> stored)
    : options(options_), facts(cell_facts(options.cell)) {
  TORCH_CHECK(options.directions == 1 || options.directions == 2, "fastrnn: expected 1 or 2 directions, got ",
              options.directions);
  const int64_t plain = options.plain_weights();
  TORCH_CHECK(int64_t(weights.size()) == options.directions * options.weights(), "fastrnn: expected ", plain,
              " weights (", plain + 1, " with a projection) per direction, got ", weights.size(), " for ",
              options.directions);
  TORCH_CHECK(!options.projected || facts.projectable, "fastrnn: expected no projection for cell ", facts.name,
              ", got one");
  TORCH_CHECK(weights[1].dim() == 2 && weights[1].size(0) % facts.gates == 0, "fastrnn: expected weight_hh [",
              facts.gates, " * hidden_size, outputs], got ", weights[1].sizes());
  n.D = options.directions;
  n.H = weights[1].size(0) / facts.gates;
  n.P = weights[1].size(1);
  const bool one_step = options.one_step(), packed = options.form == Form::kPacked;
  TORCH_CHECK(x.dim() == (one_step || packed ? 2 : 3), "fastrnn: expected ",
              packed     ? "a packed input of 2"
              : one_step ? "one step of 2"
                         : "3",
              " dimensions, got ", x.dim());
  n.I = x.size(-1);
  y_shape.assign(x.sizes().begin(), x.sizes().end());
  y_shape.back() = n.D * n.P;
  if (packed)
    set_packed_rows(x, state, *batch_sizes);
  else
    set_rows(x);
  state_shapes = fastrnn::state_shapes(options, n);
  check(x, state, weights, stored.value_or(x.scalar_type()));
}

void Layer::set_rows(const Tensor& x) {
  const bool one_step = options.one_step(), batch_first = options.form == Form::kBatchFirst;
  n.T = one_step ? 1 : x.size(batch_first ? 1 : 0), n.B = x.size(one_step || batch_first ? 0 : 1), n.N = n.T * n.B;
  TORCH_CHECK(n.T > 0, "Expected sequence length to be larger than 0 in RNN");
  batch.set_dense(options.form, n.T, n.B);
}

void Layer::set_packed_rows(const Tensor& x, at::TensorList state, const Tensor& batch_sizes) {
  TORCH_CHECK(!state.empty() && state[0].dim() == 3,
              "fastrnn: expected initial states [D, B, P] with a packed input, got ",
              state.empty() ? "none" : std::to_string(state[0].dim()) + " dimensions");
  TORCH_CHECK(batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.is_cpu() &&
                  batch_sizes.size(0) > 0,
              "fastrnn: expected batch_sizes to be int64 [T] on the CPU, T > 0, got ", batch_sizes.scalar_type(), " ",
              batch_sizes.sizes(), " on ", batch_sizes.device());
  const Tensor sizes = batch_sizes.contiguous();
  n.T = sizes.size(0), n.B = state[0].size(1), n.N = x.size(0);
  const std::string wrong = batch.set_packed(sizes.const_data_ptr<int64_t>(), n.T, n.B, n.N);
  TORCH_CHECK(wrong.empty(), wrong);
}

void Layer::check(const Tensor& x, at::TensorList state, at::TensorList weights, at::ScalarType stored) const {
  const auto expect = [&](const Tensor& t, const Shape& shape, at::ScalarType type) {
    const at::IntArrayRef sizes = sizes_of(shape);
    TORCH_CHECK(t.sizes() == sizes, "fastrnn: expected ", shape.name, " of shape ", sizes, ", got ", t.sizes());
    TORCH_CHECK(t.scalar_type() == type && t.device() == x.device(), "fastrnn: expected ", shape.name, " as ", type,
                " on ", x.device(), type == x.scalar_type() ? " like the input" : "", ", got ", t.scalar_type(), " on ",
                t.device());
  };
  constexpr int kMatrices = 2;  // W_ih and W_hh, which may be stored in another dtype
  const Shapes<5> shapes = weight_shapes(options, n);
  for (int64_t d = 0; d < n.D; ++d)
    for (int i = 0; i < shapes.count; ++i)
      expect(weights[d * shapes.count + i], shapes[i], i < kMatrices ? stored : x.scalar_type());
  TORCH_CHECK(options.projected || n.P == n.H, "fastrnn: expected weight_hh with ", n.H, " columns, got ", n.P);
  TORCH_CHECK(state.empty() || int(state.size()) == facts.states, "fastrnn: expected ", facts.states,
              " initial states or none, got ", state.size());
  for (size_t i = 0; i < state.size(); ++i) expect(state[i], state_shapes[i], x.scalar_type());
}

}  // namespace fastrnn
