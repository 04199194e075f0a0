// A layer whose weights are stored in few bits, forward only: the time loop over panels that were packed once, for any
// cell and any format of formats-inl.h.
#pragma once

#include "kernels/formats-inl.h"
#include "kernels/forward-inl.h"

namespace fastrnn {
namespace {

// Where the packed weights of a layer lie in one block.
template <class Cell, class Format>
class FrozenPanels {
  using Gates = typename Cell::Gates;
  using Stored = typename Format::Stored;

 public:
  using Groups = ColumnGroups<float, Cell::kUnitVectors>;

  FrozenPanels(const Sizes& sizes, char* block) : n_(sizes), arena_{block} {
    for (int64_t d = 0; d < n_.D; ++d) {
      bias_[d] = arena_.take<float>(groups_.padded() * Gates::kSums);
      x_[d] = take_matrix(n_.I);
      h_[d] = take_matrix(n_.P);
    }
  }

  int64_t bytes() const { return arena_.used; }

  void pack(const FrozenWeights<Stored>* weights) {
    for (int64_t d = 0; d < n_.D; ++d) {
      const FrozenWeights<Stored>& w = weights[d];
      for (int64_t q = 0; q < groups_.count(); ++q) {
        if (w.b_ih) pack_bias(w, d, q);
        pack_matrix(x_[d], w.w_ih, w.scale_ih, n_.I, q);
        if (w.w_hh) pack_matrix(h_[d], w.w_hh, w.scale_hh, n_.P, q);
      }
    }
  }

  const float* bias(int64_t d, int64_t q) const { return bias_[d] + q * Groups::kWidth * Gates::kSums; }
  Columns<Stored> x(int64_t d, int64_t q) const { return columns(x_[d], n_.I, q); }
  Columns<Stored> h(int64_t d, int64_t q) const { return columns(h_[d], n_.P, q); }

 private:
  struct Matrix {
    Stored* panels = nullptr;
    float* scale = nullptr;
    int32_t* start = nullptr;
  };

  static int64_t depth(int64_t K) { return divide_up(K, Format::kStep) * Format::kStep; }

  Matrix take_matrix(int64_t K) {
    const int64_t columns = groups_.padded() * Gates::kGates;
    Matrix m;
    m.panels = arena_.take<Stored>(columns * depth(K));
    if (kScaled<Format>) m.scale = arena_.take<float>(columns), m.start = arena_.take<int32_t>(columns);
    return m;
  }

  Columns<Stored> columns(const Matrix& m, int64_t K, int64_t q) const {
    const int64_t first = q * Groups::kWidth * Gates::kGates;
    if (!kScaled<Format>) return {m.panels + first * depth(K), nullptr, nullptr};
    return {m.panels + first * depth(K), m.scale + first, m.start + first};
  }

  // f(gate, unit, column): for the units of a group, their columns counted from the first of the group.
  template <class F>
  void for_columns(int64_t q, F&& f) const {
    const int64_t first = q * Groups::kWidth, width = groups_.vectors(q) * kLanes<float>;
    for (int g = 0; g < Gates::kGates; ++g)
      for (int64_t i = 0; i < smaller(width, n_.H - first); ++i) f(g, first + i, i, width);
  }

  void pack_bias(const FrozenWeights<Stored>& w, int64_t d, int64_t q) {
    float* out = bias_[d] + q * Groups::kWidth * Gates::kSums;
    for_columns(q, [&](int g, int64_t unit, int64_t i, int64_t width) {
      out[Gates::x_sum(g) * width + i] += w.b_ih[g * n_.H + unit];
      if (w.b_hh) out[Gates::h_sum(g) * width + i] += w.b_hh[g * n_.H + unit];
    });
  }

  void pack_matrix(Matrix& m, const Stored* w, const float* scale, int64_t K, int64_t q) {
    constexpr int64_t kDepth = Format::kDepth;
    const int64_t first = q * Groups::kWidth * Gates::kGates;
    Stored* panel = m.panels + first * depth(K);
    for_columns(q, [&](int g, int64_t unit, int64_t i, int64_t width) {
      const int64_t column = g * width + i, ld = Gates::kGates * width;
      const Stored* row = w + (g * n_.H + unit) * K;
      for (int64_t k = 0; k < K; ++k) panel[(k / kDepth * ld + column) * kDepth + k % kDepth] = row[k];
      if constexpr (kScaled<Format>) {
        int32_t sum = 0;
        for (int64_t k = 0; k < K; ++k) sum += row[k];
        m.scale[first + column] = scale[g * n_.H + unit];
        m.start[first + column] = -128 * sum;
      }
    });
  }

  const Sizes n_;
  Arena arena_;
  const Groups groups_{n_.H};
  float* bias_[2];
  Matrix x_[2], h_[2];
};

// What is left to do on a block of rows when it was multiplied: nothing, unless the format leaves integers.
template <class Cell, class Format, Side kSide, bool = (Format::kIntegers > 0)>
struct FinishSums {
  explicit FinishSums(const BlockSums<typename Format::Stored>&) {}
  void operator()(int, int) const {}
};
template <class Cell, class Format, Side kSide>
struct FinishSums<Cell, Format, kSide, true> {
  BlockSums<typename Format::Stored> block;

  explicit FinishSums(const BlockSums<typename Format::Stored>& of) : block(of) {}
  void operator()(int begin, int end) const {
    Format::template finish<typename Cell::Gates, Cell::kUnitVectors, kSide>(block, begin, end);
  }
};
template <class Cell, class Format>
struct FinishStep {
  FinishSums<Cell, Format, Side::kHidden> sums;
  CellWork<float, float, Cell> cell;

  void operator()(int begin, int end) const {
    sums(begin, end);
    cell(begin, end);
  }
};

template <class Cell, class Format>
class FrozenForward {
  using Gates = typename Cell::Gates;
  using Panels = FrozenPanels<Cell, Format>;
  using Groups = typename Panels::Groups;
  using Block = BlockSums<typename Format::Stored>;
  // Rows whose input product is formed at once, all units of them in one pass over W_ih. On the matrix unit that is
  // worth more where W_ih lies beyond L2: 128 rows rather than 48 made 1.1 to 1.3 times as fast what has 4 MB of
  // weights in bfloat16, and cost 5 % at most with less of them.
  static constexpr int64_t kHoistRows = Format::kOnTiles ? 128 : 48;
  static constexpr int64_t kWholeRows = Format::kOnTiles ? 16 : 1, kSpare = Format::kOnTiles ? Format::kBlockRows : 0;
  static constexpr int64_t kUnits = Cell::kUnitVectors * kLanes<float>;
  // Of a block whose sums are finished beside the products of the next.
  static constexpr int kBuffers = Format::kOnTiles ? 2 : 1;
  static constexpr int64_t kIntegers = larger(1, Format::kIntegers* Format::kBlockRows* Gates::kGates* kUnits);

 public:
  FrozenForward(const FrozenArgs& args, const Plan& plan, Team team, char* workspace)
      : a_(args),
        n_(args.sizes),
        plan_(plan),
        share_(plan, args.sizes, team),
        panels_(args.sizes, const_cast<char*>(args.panels)) {
    Arena arena{workspace};
    const int64_t rows = larger(kHoistRows, divide_up(n_.B, plan.row_parts)) + kSpare;
    thread_ = take_for_each(plan.threads, team.rank, [&] {
      ThreadBuffers b;
      b.encoded = arena.take<char>(rows * larger(Format::row_bytes(n_.I), Format::row_bytes(n_.H)));
      b.gx = arena.take<float>(rows * groups_.padded() * Gates::kSums);
      return b;
    });
    workspace_ = arena.used;
  }

  int64_t workspace() const { return workspace_; }

  void run() {
    for (int64_t d = share_.directions.begin; d < share_.directions.end; ++d) run_direction(d);
  }

 private:
  struct ThreadBuffers {
    char* encoded = nullptr;  // rows of x, then of h
    float* gx = nullptr;
  };

  void run_direction(int64_t d) {
    const Steps steps{a_.x_rows, a_.rows, n_.T, share_.row_part, plan_.row_parts, d == 1};
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    int64_t hoisted_end = 0, hoisted_row = 0;
    for (int64_t s = 0; s < n_.T; ++s) {
      if (s == hoisted_end) {
        hoisted_end = hoist(d, steps, groups, s);
        hoisted_row = 0;
      }
      step(d, steps, groups, s, hoisted_row);
      hoisted_row += steps.active(s);
    }
  }

  // x W_ih^T + bias for the rows of the steps from s on, for the thread's own units. Returns the step after the last.
  int64_t hoist(int64_t d, const Steps& steps, Range groups, int64_t s) {
    const int64_t ld = Format::row_bytes(n_.I);
    gx_rows_ = 0;
    do {
      for (int64_t j = 0; j < steps.active(s); ++j, ++gx_rows_)
        Format::encode(thread_.encoded + gx_rows_ * ld, a_.x + steps.x_row(s, j) * n_.I, n_.I);
      ++s;
    } while (s < n_.T && gx_rows_ + steps.active(s) <= kHoistRows);
    tiles_.shape(gx_rows_, Format::kLeftTiles);
    alignas(64) int32_t integers[kBuffers][kIntegers];
    BesideProducts<FinishSums<Cell, Format, Side::kInput>> sums_before;
    for_blocks(groups, {0, gx_rows_}, [&](int64_t q, int64_t row, int count, int buffer) {
      const Block block{gx_of(q, row),
                        integers[buffer],
                        count,
                        groups_.vectors(q),
                        {panels_.bias(d, q), 0},
                        {thread_.encoded + row * ld, ld},
                        panels_.x(d, q),
                        n_.I};
      Format::template begin<Gates, Cell::kUnitVectors, Side::kInput>(block, sums_before);
      sums_before.turn_to(count, [&] { return FinishSums<Cell, Format, Side::kInput>(block); });
    });
    sums_before.finish();
    return s;
  }

  // f(group, first row, rows, buffer) for every block of rows of every group.
  template <class F>
  static FASTRNN_INLINE void for_blocks(Range groups, Range rows, F&& f) {
    int64_t blocks = 0;
    for (int64_t q = groups.begin; q < groups.end; ++q)
      for_row_blocks(
          Format::kBlockRows, rows, [&](int64_t row, int count) { f(q, row, count, blocks++ % kBuffers); }, kWholeRows);
  }

  float* gx_of(int64_t q, int64_t row) const {
    return thread_.gx + Gates::kSums * (q * Groups::kWidth * gx_rows_ + row * groups_.vectors(q) * kLanes<float>);
  }

  void step(int64_t d, const Steps& steps, Range groups, int64_t s, int64_t hoisted_row) {
    const int64_t active = steps.active(s), begun = steps.begun(s), y_ld = n_.D * n_.H;
    const float* y = a_.y + d * n_.H;
    const StepRows<const float> h_0{a_.h_0 ? a_.h_0 + (d * n_.B + steps.part) * n_.H : nullptr, steps.parts * n_.H};
    tiles_.shape(active, Format::kLeftTiles);
    if (begun > 0) advance(d, steps, groups, s, {0, begun}, steps.of_y(y, y_ld, s - 1, 0), hoisted_row);
    if (begun < active) advance(d, steps, groups, s, {begun, active}, h_0, hoisted_row);
    wait(share_.group, plan_.unit_parts, share_.place);
    // Rows that end here leave their last output as the final state.
    if (share_.unit_part != 0) return;
    for (int64_t j = steps.followed(s); j < active; ++j)
      __builtin_memcpy(a_.h_T + (d * n_.B + steps.part + j * steps.parts) * n_.H, y + steps.y_row(s, j) * y_ld,
                       n_.H * sizeof(float));
  }

  // Rows and their previous hidden states. Every thread encodes all of these for itself: that takes less than a second
  // barrier.
  void advance(int64_t d, const Steps& steps, Range groups, int64_t s, Range rows, StepRows<const float> h,
               int64_t hoisted_row) {
    const int64_t ld = Format::row_bytes(n_.H);
    for (int64_t row = rows.begin; h.data && row < rows.end; ++row)
      Format::encode(thread_.encoded + row * ld, h.row(row), n_.H);
    alignas(64) float sums[kBuffers][Format::kBlockRows * Gates::kSums * kUnits];
    alignas(64) int32_t integers[kBuffers][kIntegers];
    BesideProducts<FinishStep<Cell, Format>> step_before;
    for_blocks(groups, rows, [&](int64_t q, int64_t row, int count, int buffer) {
      const int vectors = groups_.vectors(q);
      const Block block{sums[buffer],
                        integers[buffer],
                        count,
                        vectors,
                        {gx_of(q, hoisted_row + row), Gates::kSums * vectors * kLanes<float>},
                        {h.data ? thread_.encoded + row * ld : nullptr, ld},
                        panels_.h(d, q),
                        n_.H};
      Format::template begin<Gates, Cell::kUnitVectors, Side::kHidden>(block, step_before);
      step_before.turn_to(count, [&] {
        return FinishStep<Cell, Format>{
            FinishSums<Cell, Format, Side::kHidden>(block),
            {sums[buffer], vectors, q * Groups::kWidth, n_.H, cell_rows(d, steps, s, row, h)}};
      });
      if (!Format::kOnTiles) step_before.finish();
    });
    step_before.finish();
  }

  CellRows<float> cell_rows(int64_t d, const Steps& steps, int64_t s, int64_t row, StepRows<const float> h) const {
    CellRows<float> at{};
    if (Cell::kReadsHidden || a_.zoneout) at.h_prev = h.from(row);
    if (a_.zoneout) at.zoneout = {&a_.zoneout, d, steps.y_rows(s, row)};
    if (a_.cell_state)
      at.cell_state = a_.cell_state + steps.of_batch(d, n_.B, row) * n_.H, at.cell_state_ld = steps.parts * n_.H;
    at.h = steps.of_y(a_.y + d * n_.H, n_.D * n_.H, s, row);
    return at;
  }

  const FrozenArgs& a_;
  const Sizes n_;
  const Plan plan_;
  const Share share_;
  const Panels panels_;
  const Groups groups_{n_.H};
  TilesInUse tiles_{Format::kOnTiles};
  ThreadBuffers thread_;
  int64_t gx_rows_ = 0, workspace_ = 0;
};

}  // namespace
}  // namespace fastrnn
