#include "runtime/plan.h"

#include <algorithm>
#include <cmath>

#include "runtime/isa.h"

namespace fastrnn {
namespace {

// A register tile that is fed from L1 reaches so much of the multiply-adds' rate, and while it computes a fifth of the
// time of reading its panel, or the other way round, is not hidden. Measured on Granite Rapids with 6 rows x 4 vectors:
// 198 GFLOP/s of 241 from L1, 190 from L2, 82 from L3; these two numbers give 195, 185 and 83.
constexpr double kTileRate = 0.87, kNotHidden = 0.2;
// Of a cache, what panels may take; the rest holds what moves past them.
constexpr double kUsable = 0.7;
// Rows give way to units for a twentieth, about as much as waiting at every step costs beside the barrier itself and as
// the estimates are worth; hoisting, which leaves products in memory, has to promise a tenth.
constexpr double kUnitsGain = 0.95, kHoistGain = 0.9;
// Beside products on a matrix unit the cell, which no plan changes, takes as long as they do: rows stay the better ones
// up to H = I = 256 of an LSTM, where dividing units saves four tenths of the products' time.
constexpr double kUnitsGainOfMatrix = 0.55;
// A larger chunk, which takes more of L2, has to promise something.
constexpr double kLargerGain = 0.97;

// What multiplies elements of so many bytes; 1 are those of weights frozen to int8.
struct Products {
  bool matrix;
  int block_rows;
};
Products products_of(const InstructionSet& set, int element_bytes) {
  if (element_bytes == 1) return {set.frozen_int8.matrix, set.frozen_int8.block_rows};
  if (element_bytes == 2 && set.bf16) return {set.bf16->matrix, set.bf16->block_rows};
  return {false, set.f32.block_rows};
}

// One layer on one machine, as the estimates see it.
class Layer {
 public:
  Layer(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& n, int element_bytes)
      : m_(machine), n_(n), bytes_(element_bytes) {
    const CellFacts& facts = set.cells[int(kind)];
    const auto [matrix, block_rows] = products_of(set, element_bytes);
    columns_ = double(facts.gates) * n.H, sums_ = double(facts.sums) * n.H;
    block_rows_ = block_rows;
    const Rates& rates = matrix ? m_.matrix : m_.vector;
    double flops = element_bytes == 8   ? rates.float64
                   : element_bytes == 4 ? rates.float32
                   : element_bytes == 2 ? rates.bfloat16
                                        : rates.int8 / 2;  // an activation is two bytes
    if (flops <= 0) flops = m_.vector.float32;
    // Narrower vectors than the machine's best ones do less.
    flops_ = kTileRate * flops * (matrix ? 1 : std::min(1.0, double(set.vector_bytes) / m_.vector_bytes));
  }

  // On one thread, without the cell: of arithmetic or, with few rows, of reading the weights.
  double single_thread() const {
    const double weights = columns_ * (n_.I + double(n_.P) * n_.T) * n_.D * bytes_;
    return std::max(2.0 * n_.N * n_.D * columns_ * (n_.I + n_.P) / flops_, weights / m_.l2.rate);
  }

  Estimate estimate(const Plan& plan) const {
    const double directions = double(n_.D) / plan.directions_at_once;  // one after another
    const double rows = double(n_.N) / n_.T / plan.row_parts;          // in a step
    const double waiting = waiting_seconds(plan, rows);
    const double x = panels(n_.I, plan), h = panels(n_.P, plan);
    double step = waiting;
    if (plan.hoist_rows > 0) {
      const double steps = std::max(1.0, std::floor(plan.hoist_rows / rows)), chunk = steps * rows;
      const double held = chunk * (n_.I + sums_ / plan.unit_parts) * std::max(bytes_, 4);
      // Of a chunk, the input product and the first step read their weights after the other's; what the former leaves
      // is written and read again.
      step += ((steps - 1) * tiles(rows, h, h, plan) + tiles(rows, h, x + h + held, plan) +
               tiles(chunk, x, x + h + held, plan) + 2 * held / rate_of(held + h, plan)) /
              steps;
    } else {
      step += tiles(rows, x + h, x + h, plan);
    }
    Estimate e;
    e.forward = directions * n_.T * step;
    e.backward = directions * n_.T * (tiles(rows, h, h, plan) + waiting);
    // Each part of the rows but the first leaves gradients of all weights, which are read and added: three accesses.
    const double weights = columns_ * (n_.I + n_.P) * std::max(bytes_, 4);
    e.copies = 3 * n_.D * weights * (plan.row_parts - 1) / plan.threads / rate_of(2 * weights * n_.D, plan);
    return e;
  }

  // Whether panels come from L3, slower than a block of rows multiplies them, and there are blocks to fetch the next
  // one meanwhile.
  bool fetches(const Plan& plan) const {
    const double own = panels(plan.hoist_rows > 0 ? n_.P : n_.I + n_.P, plan), rate = rate_of(own, plan);
    const double rows = double(n_.N) / n_.T / plan.row_parts;
    return rate == m_.l3.rate && rows > block_rows_ && own / rate > block_rows_ * flops_on(own) / flops_;
  }

  // Rows whose gate gradients give weight gradients at once. These are read and written for every chunk, beyond L2
  // where they are large: 384 rows rather than 192 where that saves a twentieth of the products.
  int64_t chunk_rows() const {
    // By bytes, twice as many of bfloat16: 2 % at H = 512.
    const int64_t rows = bytes_ == 2 ? 384 : 192;
    const double gradients = columns_ * (n_.I + n_.P) * std::max(bytes_, 4);
    if (gradients < kUsable * m_.l2.bytes || m_.l3.rate <= 0) return rows;
    const double products = rows * columns_ * (n_.I + n_.P) * 2 / flops_;
    return gradients / m_.l3.rate > 0.05 * products ? 384 : rows;
  }

 private:
  // Bytes of one thread's share of a weight with sums of so many terms.
  double panels(int64_t K, const Plan& plan) const { return columns_ * K * bytes_ / plan.unit_parts; }
  // Operations for a row on a panel.
  double flops_on(double panel) const { return 2 * panel / bytes_; }

  // Bytes/s at which a thread reads again and again what takes so many bytes in each thread: threads that split rows
  // share it, those that split units or directions have their own.
  double rate_of(double bytes, const Plan& plan) const {
    for (const Cache* cache : {&m_.l1, &m_.l2, &m_.l3}) {
      const int owners = plan.directions_at_once * plan.unit_parts;
      const double of_all = cache->cores > 1 ? bytes * std::min(owners, cache->cores) : bytes;
      if (of_all < kUsable * cache->bytes) return cache->rate;
    }
    return std::min(m_.memory_rate, m_.all_memory_rate / plan.threads);
  }

  // `rows` on a panel, of which one group after another is read once from where all of what is `held` lies and then,
  // for the blocks of rows after the first, from L2.
  double tiles(double rows, double panel, double held, const Plan& plan) const {
    const double blocks = std::ceil(rows / block_rows_);
    // A row or two have too few sums to hide the latency of multiply-adds, and a load for nearly each.
    const double arithmetic = std::max(rows / blocks, 3.0) * flops_on(panel) / flops_;
    const auto block = [&](double rate) {
      const double reading = panel / rate;
      return std::max(arithmetic, reading) + kNotHidden * std::min(arithmetic, reading);
    };
    return block(rate_of(held, plan)) + (blocks - 1) * block(std::max(m_.l2.rate, rate_of(held, plan)));
  }

  // Where units are divided, threads wait for one another at every step and read each other's part of h.
  double waiting_seconds(const Plan& plan, double rows) const {
    if (plan.unit_parts == 1) return 0;
    const double others = double(plan.unit_parts - 1) / plan.unit_parts * rows * n_.P * bytes_;
    return m_.barrier_seconds * (plan.unit_parts - 1) + others / (m_.l3.rate > 0 ? m_.l3.rate : m_.memory_rate);
  }

  const Machine& m_;
  const Sizes n_;
  const int bytes_;
  double columns_, sums_, flops_;
  int64_t block_rows_;
};

}  // namespace

// Both costs go with the size of the weights, so that rows alone decide. Nothing else may: the sums of products on
// weights as they lie, which take a reduction each, add up in another order, and a row's result must not depend on the
// number of threads.
bool takes_weights_as_they_lie(const Sizes& n) { return n.N <= (n.T == 1 ? 24 : 8); }

bool multiplies_bfloat16() {
  const Kernels<BFloat16>* kernels = instruction_set().bf16;
  return kernels && this_machine().multiplies_bfloat16(kernels->matrix);
}

int threads_for(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& n, int element_bytes,
                int64_t layers, int threads) {
  const double seconds = layers * Layer(machine, set, kind, n, element_bytes).single_thread();
  return int(std::clamp<double>(seconds / machine.thread_seconds, 1, std::max(threads, 1)));
}

Estimate estimate(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& n, int element_bytes,
                  const Plan& plan) {
  return Layer(machine, set, kind, n, element_bytes).estimate(plan);
}

Plan make_plan(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& n, int element_bytes,
               int threads) {
  const Layer layer(machine, set, kind, n, element_bytes);
  threads = threads_for(machine, set, kind, n, element_bytes, 1, threads);
  const bool matrix = products_of(set, element_bytes).matrix;

  const bool direct = takes_weights_as_they_lie(n);
  Plan best;
  best.direct_forward = direct;
  // Backward the pairs of bfloat16 are values of two rows of a weight, never side by side as they lie.
  best.direct_backward = n.N <= 32 && element_bytes >= 4;
  best.chunk_rows = layer.chunk_rows();

  const int lane_bytes = std::max(element_bytes, 4);  // bfloat16 is summed in float32
  const int64_t unit_groups = std::max<int64_t>(1, n.H * lane_bytes / (4 * set.vector_bytes));
  // Fewer rows than this leave a tile half empty.
  const int64_t rows_per_part = matrix ? 16 : 4;
  const double units_gain = matrix ? kUnitsGainOfMatrix : kUnitsGain;
  const bool may_hoist = !direct && n.T > 1 && n.I > 0;
  double least = 0;
  Plan at = best;
  const auto consider = [&](double seconds, double gain) {
    if (least > 0 && seconds >= gain * least) return;
    best = at, least = seconds;
  };
  if (threads > 1 || may_hoist) {
    for (int directions : {n.D > 1 && threads % n.D == 0 ? int(n.D) : 1, 1}) {
      const int each = threads / directions;
      const int most_rows = int(std::clamp<int64_t>(n.B / rows_per_part, 1, each));
      for (int row_parts = most_rows; row_parts >= 1; --row_parts) {
        at.directions_at_once = directions, at.row_parts = row_parts;
        at.unit_parts = int(std::min<int64_t>(each / row_parts, unit_groups));
        at.threads = directions * row_parts * at.unit_parts;
        at.hoist_rows = 0;
        consider(layer.estimate(at).total(), units_gain);
      }
      if (directions == 1) break;
    }
    at = best;
  }
  if (may_hoist) {
    least = layer.estimate(best).forward;  // which alone it changes
    for (const int rows : {48, 96}) {      // enough for several blocks of a tile's rows, few enough to stay in L2
      at.hoist_rows = rows;
      consider(layer.estimate(at).forward, best.hoist_rows > 0 ? kLargerGain : kHoistGain);
    }
  }
  // Tiles are loaded far ahead of their products.
  best.fetch_panels = !direct && !matrix && layer.fetches(best);
  best.matrix_steps = matrix && !direct;
  best.matrix_gradients = matrix && n.N >= 16;
  return best;
}

}  // namespace fastrnn
