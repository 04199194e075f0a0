#include "torch/by_sample.h"

#include <string_view>
#include <vector>

#include "torch/tensors.h"

namespace fastrnn {
namespace {

using at::Tensor;

// [members, N, width] as [members, samples, rows of a sample, width].
Tensor of_samples(const Tensor& rows, int64_t samples) { return rows.unflatten(1, {-1, samples}).transpose(1, 2); }

// left^T right over the rows of each sample.
Tensor products(const Tensor& left, const Tensor& right, int64_t samples) {
  return at::matmul(of_samples(left, samples).mT(), of_samples(right, samples));
}

// The sums that take part in the products with h, gate by gate.
Tensor of_h(const Layer& layer, const Tensor& dsums) {
  const CellFacts& facts = layer.facts;
  std::vector<Tensor> parts;
  for (int64_t gate = 0, sum = facts.gates; gate < facts.gates; ++gate)
    parts.push_back(dsums.narrow(-1, (facts.apart >> gate & 1 ? sum++ : gate) * layer.n.H, layer.n.H));
  return at::cat(parts, -1);
}

// For each row of y [members, N, P], one direction's, the hidden state before it, masked if there is a mask.
Tensor previous(const Layer& layer, const Tensor& y, const Tensor& h_0, const Tensor& mask, int64_t direction) {
  const Sizes& n = layer.n;
  const Rows rows = layer.batch.rows();
  Tensor number = at::empty({n.N}, at::kLong), row = at::empty({n.N}, at::kLong);
  int64_t *out = number.mutable_data_ptr<int64_t>(), *row_out = row.mutable_data_ptr<int64_t>();
  for (int64_t t = 0; t < n.T; ++t) {
    const int64_t before = direction == 0 ? t - 1 : t + 1;
    const int64_t begun = before < 0 || before >= n.T ? 0 : rows.active[before];
    for (int64_t b = 0; b < rows.active[t]; ++b) {
      out[rows.first[t] + b] = b < begun ? rows.first[before] + b : n.N + b;
      row_out[rows.first[t] + b] = b;
    }
  }
  const Tensor h = at::cat({y, h_0}, 1).index_select(1, number);
  return mask.defined() ? h * mask.index_select(1, row) : h;
}

}  // namespace

ByRow allocate_by_row(const Layer& layer, at::ScalarType type) {
  const Sizes& n = layer.n;
  ByRow out;
  out.dsums = allocate(layer.extent({n.D, n.N, layer.facts.sums * n.H}), type);
  if (layer.options.projected) {
    out.dh = allocate(layer.extent({n.D, n.N, n.P}), type);
    out.h = allocate(layer.extent({n.D, n.N, n.H}), type);
  }
  return out;
}

Tensor of_weight_by_sample(const Layer& layer, const ByRow& by_row, const Tensor& x, at::TensorList state,
                           const Tensor& y, const Tensor& h_mask, int64_t samples, int64_t number) {
  const Sizes& n = layer.n;
  const int64_t direction = number / layer.options.weights(), weight = number % layer.options.weights();
  const at::ScalarType real = real_type(x);
  const std::string_view name = weight_shapes(layer.options, n)[weight].name;
  // [members, N, width] of a sequence tensor, and of what is there for each direction.
  const auto rows_of = [&](const Tensor& t) {
    return layer.swapped(t).reshape({layer.members, n.N, t.size(-1)}).to(real);
  };
  const auto of_direction = [&](const Tensor& t, int64_t rows) {
    return t.reshape({layer.members, n.D, rows, t.size(-1)}).select(1, direction).to(real);
  };
  Tensor out;
  if (name == "weight_hr") {
    out = products(of_direction(by_row.dh, n.N), of_direction(by_row.h, n.N), samples);
  } else {
    const Tensor dsums = of_direction(by_row.dsums, n.N);
    const bool with_x = name == "weight_ih" || name == "bias_ih";
    const Tensor dgates = with_x ? dsums.narrow(-1, 0, layer.facts.gates * n.H) : of_h(layer, dsums);
    if (name == "weight_ih") {
      out = products(dgates, rows_of(x), samples);
    } else if (name == "weight_hh") {
      const Tensor h_0 =
          state.empty() ? at::zeros({layer.members, n.B, n.P}, dsums.options()) : of_direction(state[0], n.B);
      const Tensor outputs = rows_of(y).narrow(-1, direction * n.P, n.P);
      const Tensor mask = h_mask.defined() ? of_direction(h_mask, n.B) : h_mask;
      out = products(dgates, previous(layer, outputs, h_0, mask, direction), samples);
    } else {
      out = of_samples(dgates, samples).sum(2);
    }
  }
  return layer.has_members ? out : out.squeeze(0);
}

}  // namespace fastrnn
