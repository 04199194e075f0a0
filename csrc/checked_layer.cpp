#include "checked_layer.h"

#include "dispatch.h"

namespace fastrnn {
namespace {

using at::Tensor;

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

CellFacts cell_facts(std::string_view name) { return instruction_set().facts(cell_kind(name)); }

Form form_of(const std::optional<Tensor>& batch_sizes, bool batch_first) {
  return batch_sizes ? Form::kPacked : batch_first ? Form::kBatchFirst : Form::kTimeFirst;
}

Layer::Layer(const Tensor& x, at::TensorList state, at::TensorList weights, Form form,
             const std::optional<Tensor>& batch_sizes, std::string_view cell, int64_t directions, bool has_bias_,
             std::optional<at::ScalarType> stored)
    : kind(cell_kind(cell)),
      facts(instruction_set().facts(kind)),
      has_bias(has_bias_),
      one_step(form == Form::kOneStep) {
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
  const bool sequences = form == Form::kTimeFirst || form == Form::kBatchFirst;
  TORCH_CHECK(x.dim() == (sequences ? 3 : 2), "fastrnn: expected ",
              sequences  ? "3"
              : one_step ? "one step of 2"
                         : "a packed input of 2",
              " dimensions, got ", x.dim());
  n.I = x.size(-1);
  y_shape.assign(x.sizes().begin(), x.sizes().end());
  y_shape.back() = n.D * n.P;
  if (form == Form::kPacked)
    set_packed_rows(x, state, *batch_sizes);
  else
    set_rows(x, form);
  h_shape = {n.D, n.B, n.P}, memory_shape = {n.D, n.B, n.H};
  if (one_step) h_shape = {n.B, n.P}, memory_shape = {n.B, n.H};
  check(x, state, weights, stored.value_or(x.scalar_type()));
}

void Layer::set_rows(const Tensor& x, Form form) {
  const bool batch_first = form == Form::kBatchFirst;
  n.T = one_step ? 1 : x.size(batch_first ? 1 : 0), n.B = x.size(one_step || batch_first ? 0 : 1), n.N = n.T * n.B;
  TORCH_CHECK(n.T > 0, "Expected sequence length to be larger than 0 in RNN");
  row_stride = batch_first ? n.T : 1;
  first.resize(n.T), active.assign(n.T, n.B);
  for (int64_t t = 0; t < n.T; ++t) first[t] = batch_first ? t : t * n.B;
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
  n.T = sizes.size(0), n.B = state[0].size(1);
  active.assign(sizes.const_data_ptr<int64_t>(), sizes.const_data_ptr<int64_t>() + n.T);
  for (int64_t t = 0; t < n.T; ++t) {
    TORCH_CHECK(active[t] > 0 && active[t] <= (t ? active[t - 1] : n.B),
                "fastrnn: expected batch_sizes that do not increase, from ", n.B, " to no less than 1, got ", active[t],
                " at step ", t);
    first.push_back(n.N);
    n.N += active[t];
  }
  TORCH_CHECK(active[0] == n.B && n.N == x.size(0), "fastrnn: batch_sizes begin with ", active[0], " and add up to ",
              n.N, ", expected ", n.B, " and ", x.size(0));
}

void Layer::check(const Tensor& x, at::TensorList state, at::TensorList weights, at::ScalarType stored) const {
  const auto expect_as = [&](at::ScalarType type, const Tensor& t, at::IntArrayRef shape, const char* name) {
    TORCH_CHECK(t.sizes() == shape, "fastrnn: expected ", name, " of shape ", shape, ", got ", t.sizes());
    TORCH_CHECK(t.scalar_type() == type && t.device() == x.device(), "fastrnn: expected ", name, " as ", type, " on ",
                x.device(), type == x.scalar_type() ? " like the input" : "", ", got ", t.scalar_type(), " on ",
                t.device());
  };
  const auto expect = [&](const Tensor& t, at::IntArrayRef shape, const char* name) {
    expect_as(x.scalar_type(), t, shape, name);
  };
  const int64_t gates = facts.gates * n.H;
  for (int64_t d = 0; d < n.D; ++d) {
    const auto w = weights.slice(d * per_direction, per_direction);
    expect_as(stored, w[0], {gates, n.I}, "weight_ih");
    expect_as(stored, w[1], {gates, n.P}, "weight_hh");
    if (has_bias) expect(w[2], {gates}, "bias_ih"), expect(w[3], {gates}, "bias_hh");
    if (projected) expect(w[per_direction - 1], {n.P, n.H}, "weight_hr");
  }
  TORCH_CHECK(projected || n.P == n.H, "fastrnn: expected weight_hh with ", n.H, " columns, got ", n.P);
  const size_t states = facts.has_memory ? 2 : 1;
  TORCH_CHECK(state.empty() || state.size() == states, "fastrnn: expected ", states, " initial states or none, got ",
              state.size());
  if (!state.empty()) expect(state[0], h_shape, "h_0");
  if (state.size() > 1) expect(state[1], memory_shape, "c_0");
}

}  // namespace fastrnn
