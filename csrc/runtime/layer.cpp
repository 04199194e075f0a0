#include "runtime/layer.h"

#include <utility>

#include "runtime/isa.h"

namespace fastrnn {

std::vector<std::string> cell_names() {
  const InstructionSet& set = instruction_set();
  std::vector<std::string> names;
  for (int i = 0; i < set.cell_count; ++i) names.emplace_back(set.cells[i].name);
  return names;
}

std::optional<CellKind> find_cell(std::string_view name) {
  const InstructionSet& set = instruction_set();
  for (int i = 0; i < set.cell_count; ++i)
    if (name == set.cells[i].name) return CellKind(i);
  return std::nullopt;
}

const CellFacts& cell_facts(CellKind kind) { return instruction_set().cells[int(kind)]; }

int64_t LayerOptions::plain_weights() const {
  const int64_t of_each = has_bias ? 2 : 1;
  return layer_norm ? of_each + 1 + (cell_facts(cell).states > 1 ? of_each : 0) : 2 * of_each;
}

LayerOptions layer_options(CellKind cell, Form form, int64_t directions, bool has_bias, bool layer_norm,
                           int64_t weights) {
  LayerOptions options{
      .cell = cell, .form = form, .directions = directions, .has_bias = has_bias, .layer_norm = layer_norm};
  options.projected = weights > directions * options.plain_weights();
  return options;
}

WeightShapes weight_shapes(const LayerOptions& options, const Sizes& n) {
  const CellFacts& facts = cell_facts(options.cell);
  const bool norm = options.layer_norm, norm_of_state = norm && facts.states > 1;
  const int64_t gates = facts.gates * n.H;
  WeightShapes out{};
  const auto add = [&](bool there, const Shape& shape) {
    if (there) out.shapes[out.count++] = shape;
  };
  add(!norm, {"weight_ih", 2, {gates, n.I}});
  add(true, {"weight_hh", 2, {gates, n.P}});
  add(!norm && options.has_bias, {"bias_ih", 1, {gates}});
  add(options.has_bias, {"bias_hh", 1, {gates}});
  add(options.projected, {"weight_hr", 2, {n.P, n.H}});
  add(norm, {"weight_ln_hh", 1, {gates}});
  add(norm_of_state, {"weight_ln_c", 1, {n.H}});
  add(norm_of_state && options.has_bias, {"bias_ln_c", 1, {n.H}});
  return out;
}

Shapes<2> state_shapes(const LayerOptions& options, const Sizes& n) {
  const int count = cell_facts(options.cell).states;
  if (options.one_step()) return {{{"h_0", 2, {n.B, n.P}}, {"c_0", 2, {n.B, n.H}}}, count};
  return {{{"h_0", 3, {n.D, n.B, n.P}}, {"c_0", 3, {n.D, n.B, n.H}}}, count};
}

void BatchRows::resize(int64_t T) {
  T_ = T;
  long_.reset(T > kShort ? new int64_t[3 * T] : nullptr);
}

void BatchRows::set_dense(int64_t T, int64_t B, bool x_by_sequence) {
  resize(T);
  x_by_sequence_ = x_by_sequence;
  int64_t *first_of = first(), *active = first_of + T, *first_of_x = active + T;
  for (int64_t t = 0; t < T; ++t) first_of[t] = t * B, active[t] = B, first_of_x[t] = t;
}

std::string BatchRows::set_packed(const int64_t* batch_sizes, int64_t T, int64_t B, int64_t N) {
  using std::to_string;
  if (T < 1) return "fastrnn: expected batch_sizes of a step at least, got none";
  resize(T);
  x_by_sequence_ = false;
  int64_t *first_of = first(), *active = first_of + T;
  int64_t rows = 0;
  for (int64_t t = 0; t < T; ++t) {
    if (batch_sizes[t] <= 0 || batch_sizes[t] > (t > 0 ? active[t - 1] : B))
      return "fastrnn: expected batch_sizes that do not increase, from " + to_string(B) + " to no less than 1, got " +
             to_string(batch_sizes[t]) + " at step " + to_string(t);
    first_of[t] = rows;
    active[t] = batch_sizes[t];
    rows += batch_sizes[t];
  }
  if (active[0] != B || rows != N)
    return "fastrnn: batch_sizes begin with " + to_string(active[0]) + " and add up to " + to_string(rows) +
           ", expected " + to_string(B) + " and " + to_string(N);
  return {};
}

void BatchRows::set_places(std::vector<int64_t> of_x, std::vector<int64_t> of_y) {
  x_places_ = std::move(of_x), y_places_ = std::move(of_y);
}

}  // namespace fastrnn
