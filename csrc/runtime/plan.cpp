#include "runtime/plan.h"

#include <algorithm>

namespace fastrnn {

int threads_for(const InstructionSet& set, CellKind kind, const Sizes& n, int element_bytes, int64_t layers,
                int threads) {
  // A thread is worth starting for some 4 us of work: of arithmetic or, with few rows, of reading the weights.
  constexpr double flops_per_us = 1e5, bytes_per_us = 1e5, worth_us = 4;
  const double gates = double(set.cells[int(kind)].gates) * n.H;
  const double flops = 2.0 * n.N * n.D * gates * (n.I + n.P);
  const double bytes = gates * (n.I + n.P * n.T) * n.D * element_bytes;
  const double us = layers * std::max(flops / flops_per_us, bytes / bytes_per_us);
  return int(std::clamp<double>(us / worth_us, 1, std::max(threads, 1)));
}

Plan make_plan(const InstructionSet& set, CellKind kind, const Sizes& n, int element_bytes, int threads) {
  const double weight_elements = double(set.cells[int(kind)].gates) * n.H * (n.I + n.P);
  Plan plan;
  threads = threads_for(set, kind, n, element_bytes, 1, threads);

  if (n.D > 1 && threads % n.D == 0) plan.directions_at_once = int(n.D);
  const int per_direction = threads / plan.directions_at_once;
  // Rows need no barrier, but each part must keep tiles busy, and keeps a copy of the weight gradients, which has to be
  // worth its rows. Units divide the weights among the caches: 1.3 times as fast at H = I = 1024, even at 512.
  const bool matrix = set.matrix && element_bytes == 2;
  const int64_t rows_per_part = matrix ? 16 : 4;
  constexpr int64_t all_rows_per_part = 64;
  const double large_weights = matrix ? 1.5e6 : 12e6;  // bytes
  if (weight_elements * element_bytes < large_weights)
    plan.row_parts = int(std::clamp<int64_t>(std::min(n.B / rows_per_part, n.N / all_rows_per_part), 1, per_direction));
  const int lane_bytes = std::max(element_bytes, 4);  // bfloat16 is summed in float32
  const int64_t unit_groups = std::max<int64_t>(1, n.H * lane_bytes / (4 * set.vector_bytes));
  plan.unit_parts = int(std::min<int64_t>(per_direction / plan.row_parts, unit_groups));
  plan.threads = plan.directions_at_once * plan.row_parts * plan.unit_parts;

  // Packing pays once a weight is read for about two tiles of rows; dot products from the weights as they lie need a
  // reduction each, so with several steps they pay less long.
  plan.direct_forward = n.N <= (n.T == 1 ? 24 : 8);
  // Backward the pairs of bfloat16 are values of two rows of a weight, never side by side as they lie.
  plan.direct_backward = n.N <= 32 && element_bytes >= 4;
  const int64_t rows_at_once = (n.B + plan.row_parts - 1) / plan.row_parts;
  plan.hoist = !plan.direct_forward && n.T > 1 && rows_at_once < 4;
  plan.matrix_steps = matrix && !plan.direct_forward;
  plan.matrix_gradients = matrix && n.N >= 16;
  return plan;
}

}  // namespace fastrnn
