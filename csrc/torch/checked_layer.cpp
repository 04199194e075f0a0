#include "torch/checked_layer.h"

namespace fastrnn {

using at::Tensor;

CellKind cell_kind(std::string_view name) {
  const std::optional<CellKind> kind = find_cell(name);
  TORCH_CHECK(kind, "fastrnn: unknown cell '", name, "', expected one of ", cell_names());
  return *kind;
}

namespace {

bool have_members(at::TensorList weights, int64_t w_hh) {
  return int64_t(weights.size()) > w_hh && weights[w_hh].dim() == 3;
}

}  // namespace

LayerOptions Call::options() const {
  LayerOptions options =
      layer_options(cell_kind(cell), Form::kTimeFirst, directions, has_bias, layer_norm, int64_t(weights.size()));
  const bool one_step = x.dim() - int64_t(have_members(weights, options.w_hh())) == 2;
  options.form = batch_sizes.defined() ? Form::kPacked
                 : one_step            ? Form::kOneStep
                 : batch_first         ? Form::kBatchFirst
                                       : Form::kTimeFirst;
  return options;
}

States given(const Tensor& h_0, const Tensor& c_0) {
  TORCH_CHECK(h_0.defined() || !c_0.defined(), "fastrnn: expected c_0 with h_0, got c_0 alone");
  States out;
  if (h_0.defined()) out.push_back(h_0);
  if (c_0.defined()) out.push_back(c_0);
  return out;
}

Layer::Layer(const Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options_,
             const Tensor& batch_sizes, std::optional<at::ScalarType> stored)
    : options(options_), facts(cell_facts(options.cell)), has_members(have_members(weights, options.w_hh())) {
  TORCH_CHECK(options.directions == 1 || options.directions == 2, "fastrnn: expected 1 or 2 directions, got ",
              options.directions);
  const int64_t plain = options.plain_weights();
  TORCH_CHECK(int64_t(weights.size()) == options.directions * options.weights(), "fastrnn: expected ", plain,
              " weights (", plain + 1, " with a projection) per direction, got ", weights.size(), " for ",
              options.directions);
  TORCH_CHECK(!options.projected || facts.projectable, "fastrnn: expected no projection for cell ", facts.name,
              ", got one");
  const Tensor& w_hh = weights[options.w_hh()];
  TORCH_CHECK(w_hh.dim() == 2 + has_members && w_hh.size(-2) % facts.gates == 0, "fastrnn: expected weight_hh [",
              facts.gates, " * hidden_size, outputs], got ", w_hh.sizes());
  if (has_members) members = w_hh.size(0);
  n.D = options.directions;
  n.H = w_hh.size(-2) / facts.gates;
  n.P = w_hh.size(-1);
  const bool packed = options.form == Form::kPacked, one_step = options.one_step();
  const int64_t dims = x.dim() - has_members;
  TORCH_CHECK(dims == (packed || one_step ? 2 : 3) && (!has_members || x.size(0) == members), "fastrnn: expected ",
              packed     ? "a packed input of 2"
              : one_step ? "one step of 2"
                         : "3",
              " dimensions", has_members ? " behind that of the members" : "", ", got ", dims);
  TORCH_CHECK(!one_step || n.D == 1, "fastrnn: expected 1 direction of a single step, got ", n.D);
  n.I = x.size(-1);
  if (packed)
    set_packed_rows(x, state, batch_sizes);
  else
    set_rows(x);
  state_shapes_ = state_shapes(options, n);
  check(x, state, weights, stored.value_or(x.scalar_type()));
}

Layer::Layer(const Layer& whole, const std::vector<int64_t>& batch_sizes, std::vector<int64_t> of_x,
             std::vector<int64_t> of_y)
    : options(whole.options),
      facts(whole.facts),
      n(whole.n),
      members(whole.members),
      has_members(whole.has_members),
      x_by_sequence(whole.x_by_sequence),
      pieces_(true),
      steps_(whole.n.T),
      batch_(whole.n.B) {
  n.T = int64_t(batch_sizes.size()), n.N = int64_t(of_y.size()), n.B = n.T > 0 ? batch_sizes[0] : 0;
  state_shapes_ = state_shapes(options, n);
  if (empty()) return;
  const std::string wrong = batch.set_packed(batch_sizes.data(), n.T, n.B, n.N);
  TORCH_CHECK(wrong.empty(), wrong);
  batch.set_places(std::move(of_x), std::move(of_y));
}

Extent Layer::extent(at::IntArrayRef of_member) const {
  Extent out;
  if (has_members) out.push_back(members);
  out.append(of_member.begin(), of_member.end());
  return out;
}

Extent Layer::step_extent(int64_t width) const {
  if (options.form == Form::kPacked) return extent({n.N, width});
  if (pieces_) return extent({steps_, batch_, width});
  return options.one_step() ? extent({n.B, width}) : extent({n.T, n.B, width});
}

Extent Layer::every_state_extent() const {
  if (options.form == Form::kPacked || pieces_) return extent({n.D, n.N, n.H});
  return options.one_step() ? extent({n.B, n.H}) : extent({n.D, n.T, n.B, n.H});
}

Tensor Layer::swapped(const Tensor& t) const {
  return options.form == Form::kBatchFirst ? t.transpose(has_members, has_members + 1) : t;
}

void Layer::check_noise(const Noise& noise, const Tensor& x) const {
  const Extent mask = state_extent(0);
  TORCH_CHECK(!noise.h_mask.defined() || (noise.h_mask.sizes() == at::IntArrayRef(mask) &&
                                          noise.h_mask.scalar_type() == x.scalar_type() && noise.h_mask.is_cpu()),
              "fastrnn: expected h_mask of shape ", at::IntArrayRef(mask), " as ", x.scalar_type(),
              " on the CPU like the input, got ", noise.h_mask.scalar_type(), " ", noise.h_mask.sizes(), " on ",
              noise.h_mask.device());
  const auto check = [](double p, const char* name, bool none) {
    TORCH_CHECK(0 <= p && p <= (none ? 0 : 1), "fastrnn: expected ", name, none ? " of 0, for that state is " : "",
                none ? "not the cell's own" : " from 0 to 1", ", got ", p);
  };
  check(noise.zoneout_h, "zoneout_h", options.projected);
  check(noise.zoneout_c, "zoneout_c", facts.states == 1);
  const Extent seed = extent({2});
  TORCH_CHECK(
      !noise.zoneout_seed.defined() || (noise.zoneout_seed.sizes() == at::IntArrayRef(seed) &&
                                        noise.zoneout_seed.scalar_type() == at::kLong && noise.zoneout_seed.is_cpu()),
      "fastrnn: expected zoneout_seed to be int64 ", at::IntArrayRef(seed), " on the CPU, got ",
      noise.zoneout_seed.scalar_type(), " ", noise.zoneout_seed.sizes(), " on ", noise.zoneout_seed.device());
}

void Layer::set_rows(const Tensor& x) {
  const bool one_step = options.one_step(), batch_first = options.form == Form::kBatchFirst;
  const int first = has_members;
  n.T = one_step ? 1 : x.size(first + batch_first);
  n.B = x.size(one_step || batch_first ? first : first + 1);
  n.N = n.T * n.B;
  TORCH_CHECK(n.T > 0, "Expected sequence length to be larger than 0 in RNN");
  const bool other_order = !one_step && !x.is_contiguous() && x.transpose(first, first + 1).is_contiguous();
  x_by_sequence = batch_first != other_order;
  batch.set_dense(n.T, n.B, x_by_sequence);
}

void Layer::set_packed_rows(const Tensor& x, at::TensorList state, const Tensor& batch_sizes) {
  TORCH_CHECK(batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.is_cpu() &&
                  batch_sizes.size(0) > 0,
              "fastrnn: expected batch_sizes to be int64 [T] on the CPU, T > 0, got ", batch_sizes.scalar_type(), " ",
              batch_sizes.sizes(), " on ", batch_sizes.device());
  const Tensor sizes = batch_sizes.contiguous();
  const int64_t* size = sizes.const_data_ptr<int64_t>();
  const bool has_state = !state.empty() && state[0].dim() == 3 + has_members;
  n.T = sizes.size(0), n.B = has_state ? state[0].size(-2) : size[0], n.N = x.size(-2);
  const std::string wrong = batch.set_packed(size, n.T, n.B, n.N);
  TORCH_CHECK(wrong.empty(), wrong);
}

void Layer::check(const Tensor& x, at::TensorList state, at::TensorList weights, at::ScalarType stored) const {
  const auto expect = [&](const Tensor& t, const Shape& shape, at::ScalarType type) {
    const Extent sizes = extent(shape);
    TORCH_CHECK(t.sizes() == at::IntArrayRef(sizes), "fastrnn: expected ", shape.name, " of shape ",
                at::IntArrayRef(sizes), ", got ", t.sizes());
    TORCH_CHECK(t.scalar_type() == type && t.device() == x.device(), "fastrnn: expected ", shape.name, " as ", type,
                " on ", x.device(), type == x.scalar_type() ? " like the input" : "", ", got ", t.scalar_type(), " on ",
                t.device());
  };
  TORCH_CHECK(!options.layer_norm || n.I == n.D * facts.gates * n.H, "fastrnn: expected ", n.D * facts.gates * n.H,
              " inputs, the gates' products, of a layer with layer_norm, got ", n.I);
  constexpr int kMatrices = 2;  // W_ih and W_hh, which may be stored in another dtype
  const WeightShapes shapes = weight_shapes(options, n);
  for (int64_t d = 0; d < n.D; ++d)
    for (int i = 0; i < shapes.count; ++i)
      expect(weights[d * shapes.count + i], shapes[i], i < kMatrices ? stored : x.scalar_type());
  TORCH_CHECK(options.projected || n.P == n.H, "fastrnn: expected weight_hh with ", n.H, " columns, got ", n.P);
  TORCH_CHECK(state.empty() || int(state.size()) == facts.states, "fastrnn: expected ", facts.states,
              " initial states or none, got ", state.size());
  for (size_t i = 0; i < state.size(); ++i) expect(state[i], state_shapes_[i], x.scalar_type());
}

}  // namespace fastrnn
