// A layer's forward pass: the time loop over register tiles, for any cell. T is what tensors hold, Q what products
// take: T, or values of T rounded to bfloat16.
#pragma once

#include "kernels/cell-rows-inl.h"
#include "kernels/forward-panels-inl.h"
#include "kernels/products-inl.h"
#include "kernels/share-inl.h"

namespace fastrnn {
namespace {

template <class T, class Q, class Cell>
class LayerForward {
  using Gates = typename Cell::Gates;
  using Panels = ForwardPanels<T, Q, Cell>;
  using Groups = typename Panels::Groups;
  using Outputs = typename Panels::Outputs;
  using Norms = NormGroups<Gates>;

 public:
  LayerForward(const ForwardArgs<T>& args, const Plan& plan, Team team, char* workspace)
      : a_(args),
        n_(args.sizes),
        plan_(plan),
        team_(team),
        share_(plan, args.sizes, team),
        arena_{workspace},
        panels_(args.weights, args.sizes, plan.direct_forward, arena_) {
    const int64_t part_rows = divide_up(n_.B, plan.row_parts) + kSpareRows<Q>;
    if (args.weights[0].w_hr) {
      unprojected_ = take_for_each(plan.directions_at_once * plan.row_parts, share_.rows_owner,
                                   [&] { return take<T>(part_rows * row_ld<T>(n_.H)); });
    }
    if (kUnroundedHidden<Q, Cell>) unrounded_h_ = take<Real<T>>(n_.D * n_.B * n_.H);
    if (plan.hoist_rows > 0) {
      const int64_t rows = larger(plan.hoist_rows, part_rows);  // a step is not divided
      hoisted_ = take_for_each(plan.threads, team.rank, [&] {
        Hoisted h;
        h.gx = take<Real<T>>((rows + kSpareRows<Q>)*groups_.padded() * Gates::kSums);
        h.x = take<Q>((rows + kSpareRows<Q>)*row_ld<Q>(n_.I));
        return h;
      });
    }
    if (normalised()) {
      if (!args.saved)
        step_saved_ = take_for_each(plan.directions_at_once * plan.row_parts, share_.rows_owner,
                                    [&] { return take<Real<T>>(part_rows * saved_width()); });
      moments_ = take_for_each(plan.threads, team.rank, [&] {
        return StepMoments{take<Moments<Real<T>>>(part_rows * Norms::kCount), take<Moments<Real<T>>>(part_rows)};
      });
    }
    if (stages()) {
      staged_ = take_for_each(plan.threads, team.rank, [&] {
        Staged staged;
        if (plan.hoist_rows == 0) staged.x = take<Q>(part_rows * row_ld<Q>(n_.I));
        staged.h = take<Q>(part_rows * row_ld<Q>(n_.P));
        if (keeps_previous()) staged.previous = take<Real<T>>(part_rows * row_ld<Real<T>>(n_.P));
        if (kRounds<T, Q> && args.weights[0].w_hr) staged.unprojected = take<Q>(part_rows * row_ld<Q>(n_.H));
        return staged;
      });
    }
  }

  int64_t workspace() const { return arena_.used; }

  void run() {
    panels_.pack(team_);
    clear_operands();
    wait(team_.barriers, team_.size, team_.place);
    for (int64_t d = share_.directions.begin; d < share_.directions.end; ++d) run_direction(d);
  }

 private:
  // Inputs of some steps side by side, and their products.
  struct Hoisted {
    Real<T>* gx = nullptr;
    Q* x = nullptr;
  };

  // A step's left operands where products do not take them as they lie: for the matrix unit, rounded, from places of
  // their own, or masked. Every thread copies all of them for itself: that takes less than a second barrier.
  struct Staged {
    Q *x = nullptr, *h = nullptr, *unprojected = nullptr;
    Real<T>* previous = nullptr;  // h as the cell finds it, where products take another
  };
  bool stages() const {
    return kRounds<T, Q> || plan_.matrix_steps || a_.rows.place || a_.h_mask || keeps_previous() || normalised();
  }
  bool keeps_previous() const {
    if (kUnroundedHidden<Q, Cell>) return false;
    return (a_.zoneout && !a_.weights[0].w_hr) || (a_.h_mask && Cell::kReadsHidden);
  }

  // The moments of a step's rows.
  struct StepMoments {
    Moments<Real<T>>*products = nullptr, *state = nullptr;
  };
  bool normalised() const { return kTrains && a_.weights[0].ln_hh; }
  int64_t saved_width() const { return saved_values<Cell>(a_.zoneout, normalised()).all * n_.H; }

  template <class U>
  U* take(int64_t elements) {
    return arena_.template take<U>(elements);
  }

  // What is behind the last value of a left operand meets zeros, and must be finite.
  void clear_operands() {
    const int64_t part_rows = divide_up(n_.B, plan_.row_parts);
    if (plan_.hoist_rows > 0) clear_ends(hoisted_.x, larger(plan_.hoist_rows, part_rows), n_.I);
    if (staged_.x) clear_ends(staged_.x, part_rows, n_.I);
    if (staged_.h) clear_ends(staged_.h, part_rows, n_.P);
    if (staged_.unprojected) clear_ends(staged_.unprojected, part_rows, n_.H);
    if (unprojected_ && share_.unit_part == 0) clear_ends(unprojected_, part_rows, n_.H);
  }

  // That of the group which comes after q, where the plan says to fetch it.
  const Q* next_panel(Q* (Panels::*panel)(int64_t, int64_t) const, int64_t d, int64_t q, Range groups) const {
    if (!plan_.fetch_panels) return nullptr;
    return (panels_.*panel)(d, q + 1 < groups.end ? q + 1 : groups.begin);
  }

  void run_direction(int64_t d) {
    const Steps steps{a_.x_rows, a_.rows, n_.T, share_.row_part, plan_.row_parts, d == 1};
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    if (kUnroundedHidden<Q, Cell>) widen_initial(d, groups);
    int64_t hoisted_end = 0, hoisted_row = 0;
    for (int64_t s = 0; s < n_.T; ++s) {
      if (plan_.hoist_rows > 0 && s == hoisted_end) {
        hoisted_end = hoist(d, steps, groups, s);
        hoisted_row = 0;
      }
      step(d, steps, groups, s, hoisted_row);
      hoisted_row += steps.active(s);
    }
  }

  // h_0 as the thread's own rows and units go on from it.
  void widen_initial(int64_t d, Range groups) {
    for (int64_t row = d * n_.B + share_.row_part; row < (d + 1) * n_.B; row += plan_.row_parts) {
      for (int64_t column = groups.begin * Groups::kWidth; column < smaller(groups.end * Groups::kWidth, n_.H);
           column += kLanes<T>) {
        const int n = valid_lanes<T>(column, n_.H);
        store(unrounded_h_ + row * n_.H + column, a_.h_0 ? load(a_.h_0 + row * n_.H + column, n) : Vec<T>{}, n);
      }
    }
  }

  // x W_ih^T + bias for the rows of the steps from s on, for the thread's own units. Returns the step after the last.
  int64_t hoist(int64_t d, const Steps& steps, Range groups, int64_t s) {
    int64_t rows = 0;
    do {
      for (int64_t j = 0; j < steps.active(s); ++j, ++rows)
        copy_row(hoisted_.x + rows * row_ld<Q>(n_.I), a_.x + steps.x_row(s, j) * n_.I, n_.I);
      ++s;
    } while (s < n_.T && rows + steps.active(s) <= plan_.hoist_rows);
    gx_rows_ = rows;
    tiles_.shape(rows);
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      const int vectors = groups_.vectors(q);
      const Q* x_next = next_panel(&Panels::x, d, q, groups);
      int64_t block = 0;
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kBlockRows), {0, rows}, [&](int64_t row, int count) {
        const Q* fetch = part_ahead<Q>(x_next, n_.I, Gates::kGates * vectors, block++);
        gate_products<Q, Gates, Cell::kUnitVectors>(
            plan_.matrix_steps, gx_of(q, row), count, vectors, panels_.bias(d, q), 0,
            {hoisted_.x + row * row_ld<Q>(n_.I), row_ld<Q>(n_.I), panels_.x(d, q), n_.I, fetch},
            {nullptr, 0, nullptr, 0}, Nothing());
      });
    }
    return s;
  }

  Real<T>* gx_of(int64_t q, int64_t row) const {
    return hoisted_.gx + Gates::kSums * (q * Groups::kWidth * gx_rows_ + row * groups_.vectors(q) * kLanes<T>);
  }

  void step(int64_t d, const Steps& steps, Range groups, int64_t s, int64_t hoisted_row) {
    const int64_t active = steps.active(s), begun = steps.begun(s);
    const int64_t y_ld = n_.D * n_.P;
    tiles_.shape(active);
    T* const y = a_.y + d * n_.P;
    const StepRows<const T> x = steps.of_x(a_.x, n_.I, s, 0);
    const StepRows<const T> h = begun > 0 ? steps.of_y<const T>(y, y_ld, s - 1, 0) : StepRows<const T>{};
    const StepRows<const T> h_0{a_.h_0 ? a_.h_0 + steps.of_batch(d, n_.B, 0) * n_.P : nullptr, steps.parts * n_.P};
    if (stages()) {
      if (staged_.x) copy_rows(staged_.x, x, {0, active}, n_.I);
      const StepRows<const T> mask{a_.h_mask ? a_.h_mask + steps.of_batch(d, n_.B, 0) * n_.P : nullptr, h_0.ld};
      stage_hidden(h, mask, {0, begun});
      stage_hidden(h_0, mask, {begun, active});
      advance(d, steps, groups, s, {0, active}, {staged_.x, row_ld<Q>(n_.I)}, {staged_.h, row_ld<Q>(n_.P)},
              hoisted_row);
    } else if constexpr (!kRounds<T, Q>) {
      if (begun > 0) advance(d, steps, groups, s, {0, begun}, {x.data, x.ld}, {h.data, h.ld}, hoisted_row);
      if (begun < active)
        advance(d, steps, groups, s, {begun, active}, {x.data, x.ld}, {h_0.data, h_0.ld}, hoisted_row);
    }
    if (normalised()) normalise(d, steps, groups, s);
    if (a_.weights[d].w_hr) project(d, steps, s);
    wait(share_.group, plan_.unit_parts, share_.place);
    // Rows that end here leave their last output as the final state.
    if (share_.unit_part != 0 || !a_.h_T) return;
    for (int64_t j = steps.followed(s); j < active; ++j)
      __builtin_memcpy(a_.h_T + steps.of_batch(d, n_.B, j) * n_.P, y + steps.y_row(s, j) * y_ld, n_.P * sizeof(T));
  }

  // Rows of a left operand, null for zeros.
  template <class E>
  struct Left {
    const E* data;
    int64_t ld;

    const E* row(int64_t number) const { return data ? data + number * ld : nullptr; }
  };

  template <class E>
  static void copy_rows(E* to, StepRows<const T> from, Range rows, int64_t width) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      E* const at = to + row * row_ld<E>(width);
      if (from.data)
        copy_row(at, from.row(row), width);
      else
        __builtin_memset(at, 0, width * sizeof(E));
    }
  }

  void stage_hidden(StepRows<const T> h, StepRows<const T> mask, Range rows) {
    if (staged_.previous) copy_rows(staged_.previous, h, rows, n_.P);
    if (!mask.data || !h.data) return copy_rows(staged_.h, h, rows, n_.P);
    for (int64_t row = rows.begin; row < rows.end; ++row)
      copy_masked(staged_.h + row * row_ld<Q>(n_.P), h.row(row), mask.row(row), n_.P);
  }

  // Rows from their inputs and their previous hidden state.
  void advance(int64_t d, const Steps& steps, Range groups, int64_t s, Range rows, Left<Q> x, Left<Q> h,
               int64_t hoisted_row) {
    constexpr int kSize = kMostRows<Q> * Gates::kSums * Cell::kUnitVectors * kLanes<T>;
    alignas(64) Real<T> buffers[kMatrix<Q> ? 2 : 1][kSize];
    BesideProducts<CellWork<T, Q, Cell>> cell_before;
    int64_t blocks = 0;
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      const int vectors = groups_.vectors(q), lines = Gates::kGates * vectors;
      const Q* x_next = next_panel(&Panels::x, d, q, groups);
      const Q* h_next = next_panel(&Panels::h, d, q, groups);
      int64_t block = 0;
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kBlockRows), rows, [&](int64_t row, int count) {
        Real<T>* const sums = buffers[kMatrix<Q> ? blocks++ % 2 : 0];
        const Operand<Q> of_h{h.row(row), h.ld, panels_.h(d, q), n_.P, part_ahead<Q>(h_next, n_.P, lines, block)};
        if (!kRounds<T, Q> && plan_.direct_forward)
          direct_sums(sums, d, q, count, x.row(row), x.ld, of_h.data, h.ld);
        else if (plan_.hoist_rows > 0)
          gate_products<Q, Gates, Cell::kUnitVectors>(plan_.matrix_steps, sums, count, vectors,
                                                      gx_of(q, hoisted_row + row), Gates::kSums * vectors * kLanes<T>,
                                                      {nullptr, 0, nullptr, n_.I}, of_h, cell_before);
        else
          gate_products<Q, Gates, Cell::kUnitVectors>(
              plan_.matrix_steps, sums, count, vectors, panels_.bias(d, q), 0,
              {x.row(row), x.ld, panels_.x(d, q), n_.I, part_ahead<Q>(x_next, n_.I, lines, block)}, of_h, cell_before);
        ++block;
        if (normalised()) return keep_products(sums, count, vectors, q, saved_rows(d, steps, s, row));
        cell_before.turn_to(count, [&] {
          return CellWork<T, Q, Cell>{sums, vectors, q * Groups::kWidth, n_.H,
                                      cell_rows(d, steps, s, row, of_h.data, h.ld)};
        });
        if (!kMatrix<Q> || !plan_.matrix_steps) cell_before.finish();
      });
    }
    cell_before.finish();
  }

  struct SavedRows {
    Real<T>* data;
    int64_t ld;
  };

  // Among what is saved, for all threads that share the rows.
  void keep_products(const Real<T>* sums, int rows, int vectors, int64_t q, SavedRows to) const {
    const SavedValues values = saved_values<Cell>(a_.zoneout, true);
    for (int r = 0; r < rows; ++r) {
      for (int u = 0; u < vectors; ++u) {
        const int64_t column = q * Groups::kWidth + u * kLanes<T>;
        const int n = valid_lanes<T>(column, n_.H);
        for (int g = 0; g < Gates::kGates; ++g)
          store(to.data + r * to.ld + saved_at(values.all, column, values.own + g, n),
                load(sums + ((r * Gates::kSums + Gates::h_sum(g)) * vectors + u) * kLanes<T>), n);
      }
    }
  }

  // The cell on a step's products, normalised.
  void normalise(int64_t d, const Steps& steps, Range groups, int64_t s) {
    const SavedValues values = saved_values<Cell>(a_.zoneout, true);
    const int64_t active = steps.active(s), width = Gates::kGates * n_.H;
    const SavedRows saved = saved_rows(d, steps, s, 0);
    wait(share_.group, plan_.unit_parts, share_.place);
    for (int64_t row = 0; row < active; ++row)
      for_norm_groups<Gates>([&]<int group>() {
        moments_.products[row * Norms::kCount + group] = moments<T, Norms::size(group)>(
            {saved.data + row * saved.ld, values.all, values.own + Norms::first(group)}, n_.H);
      });
    // All units of some rows before other rows: so what there is of a row is read from its beginning to its end.
    const auto for_own_blocks = [&](auto&& f) {
      for_row_blocks(kBlockRows, {0, active}, [&](int64_t row, int count) {
        const Q* const h = staged_.h + row * row_ld<Q>(n_.P);
        const CellRows<T> at = cell_rows(d, steps, s, row, h, row_ld<Q>(n_.P));
        for (int64_t q = groups.begin; q < groups.end; ++q) f(q, row, count, at);
      });
    };
    for_own_blocks([&](int64_t q, int64_t row, int count, const CellRows<T>& at) {
      alignas(64) Real<T> sums[kBlockRows * Gates::kSums * Cell::kUnitVectors * kLanes<T>];
      const int vectors = groups_.vectors(q);
      normalised_sums<T, Gates>(sums, count, vectors, q * Groups::kWidth, n_.H,
                                steps.of_x(a_.x + d * width, n_.D * width, s, row), at.saved, at.saved_ld, values,
                                at.norm);
      CellWork<T, Q, Cell>{sums, vectors, q * Groups::kWidth, n_.H, at}(0, count);
    });
    if constexpr (Cell::kCellState >= 0) {
      wait(share_.group, plan_.unit_parts, share_.place);
      for (int64_t row = 0; row < active; ++row)
        moments_.state[row] = moments<T, 1>({saved.data + row * saved.ld, values.all, Cell::kCellState}, n_.H);
      for_own_blocks([&](int64_t q, int64_t, int count, const CellRows<T>& at) {
        apply_output<T, Q, Cell>(count, groups_.vectors(q), q * Groups::kWidth, n_.H, at);
      });
    }
  }

  void direct_sums(Real<T>* sums, int64_t d, int64_t q, int rows, const Q* x, int64_t x_ld, const Q* h, int64_t h_ld) {
    if constexpr (!kRounds<T, Q>) {  // where a plan may say so
      const Weights<T>& w = a_.weights[d];
      const int vectors = groups_.vectors(q);
      const int64_t unit = q * Groups::kWidth, width = Gates::kSums * vectors * kLanes<T>;
      for (int r = 0; r < rows; ++r) __builtin_memcpy(sums + r * width, panels_.bias(d, q), width * sizeof(Real<T>));
      const DirectOperand<T> with_x{x, x_ld, w.w_ih, n_.I}, with_h{h, h_ld, w.w_hh, n_.P};
      // Without the code for what is left over, the sums stay in registers.
      constexpr int64_t kDepth = kPair<T> * kLanes<T>;
      const bool whole = n_.I % kDepth == 0 && n_.P % kDepth == 0 && n_.H % kLanes<T> == 0;
      const auto run = whole ? direct_tile<T, Gates, true> : direct_tile<T, Gates, false>;
      run(sums, rows, vectors, with_x, with_h, n_.H, unit);
    }
  }

  // What is saved of a step's rows from `row` on, null for nothing: of a normalised layer, which takes h from there,
  // for the step alone at least.
  SavedRows saved_rows(int64_t d, const Steps& steps, int64_t s, int64_t row) const {
    const int64_t width = saved_width();
    if (a_.saved) return {a_.saved + (d * n_.N + steps.number(s, row)) * width, steps.stride() * width};
    return {step_saved_ ? step_saved_ + row * width : nullptr, width};
  }

  CellRows<T> cell_rows(int64_t d, const Steps& steps, int64_t s, int64_t row, const Q* h_prev, int64_t h_ld) const {
    const int64_t number = steps.number(s, row), of_batch = steps.of_batch(d, n_.B, row);
    CellRows<T> at{};
    if constexpr (kUnroundedHidden<Q, Cell>) {
      at.unrounded_h = unrounded_h_ + of_batch * n_.H, at.unrounded_h_ld = steps.parts * n_.H;
      at.h_prev = {at.unrounded_h, at.unrounded_h_ld};
    } else if (staged_.previous) {
      at.h_prev = {staged_.previous + row * row_ld<Real<T>>(n_.P), row_ld<Real<T>>(n_.P)};
    } else if constexpr (Cell::kReadsHidden) {
      at.h_prev = {h_prev, h_ld};
    }
    at.cell_state = a_.cell_state ? a_.cell_state + of_batch * n_.H : nullptr, at.cell_state_ld = steps.parts * n_.H;
    const SavedRows saved = saved_rows(d, steps, s, row);
    at.saved = saved.data, at.saved_ld = saved.ld, at.values = saved_values<Cell>(a_.zoneout, normalised());
    if (normalised()) {
      const Weights<T>& w = a_.weights[d];
      at.norm = {w.ln_hh, w.b_hh, w.ln_c, w.b_ln_c, moments_.products + row * Norms::kCount, moments_.state + row};
    }
    if (a_.zoneout) at.zoneout = {&a_.zoneout, d, steps.y_rows(s, row)};
    at.cell_states = a_.cell_states ? a_.cell_states + (d * n_.N + number) * n_.H : nullptr;
    at.cell_states_ld = steps.stride() * n_.H;
    if (unprojected_) {
      at.h = {unprojected_ + row * row_ld<T>(n_.H), row_ld<T>(n_.H)};
    } else {
      at.h = steps.of_y(a_.y + d * n_.P, n_.D * n_.P, s, row);
    }
    return at;
  }

  // y = h W_hr^T for the rows of step s, h being what the cell gave.
  void project(int64_t d, const Steps& steps, int64_t s) {
    wait(share_.group, plan_.unit_parts, share_.place);
    const Range groups = share({0, outputs_.count()}, share_.unit_part, plan_.unit_parts);
    const Q* h = staged_.unprojected;
    if constexpr (kRounds<T, Q>)
      copy_rows(staged_.unprojected, {unprojected_, row_ld<T>(n_.H)}, {0, steps.active(s)}, n_.H);
    else
      h = unprojected_;
    const int64_t start = 0;
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kTileRows), {0, steps.active(s)}, [&](int64_t row, int count) {
        alignas(64) Real<T> out[kMostRows<Q> * kTileCols * kLanes<T>];
        const int cols = outputs_.vectors(q);
        plain_product<Q>(plan_.matrix_steps, out, count, cols, {h + row * row_ld<Q>(n_.H), row_ld<Q>(n_.H), &start, 1},
                         {panels_.projection(d, q), cols * kLanes<T>}, n_.H, Nothing());
        for (int r = 0; r < count; ++r) {
          T* y = a_.y + steps.y_row(s, row + r) * n_.D * n_.P + d * n_.P;
          for (int c = 0; c < cols; ++c) {
            const int64_t column = q * Outputs::kWidth + c * kLanes<T>;
            store(y + column, load(out + (r * cols + c) * kLanes<T>), valid_lanes<T>(column, n_.P));
          }
        }
      });
    }
  }

  const ForwardArgs<T>& a_;
  const Sizes n_;
  const Plan plan_;
  const Team team_;
  const Share share_;
  Arena arena_;
  Panels panels_;
  TilesInUse tiles_{plan_.matrix_steps};
  const Groups groups_{n_.H};
  const Outputs outputs_{n_.P};
  T* unprojected_ = nullptr;
  Real<T>* unrounded_h_ = nullptr;
  Hoisted hoisted_;
  Staged staged_;
  Real<T>* step_saved_ = nullptr;
  StepMoments moments_;
  int64_t gx_rows_ = 0;
};

}  // namespace
}  // namespace fastrnn
