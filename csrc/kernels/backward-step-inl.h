// A step of a layer's backward pass: the gradient of h, by the products with W_hh of the step that comes after, goes
// through the cell to the gradients of its gate sums. T and Q as in forward; the gradients of gate sums are Q.
#pragma once

#include "kernels/cell-rows-inl.h"
#include "kernels/gradients-inl.h"
#include "kernels/share-inl.h"

namespace fastrnn {
namespace {

// A chunk of steps, of the threads that share its rows. dsums: the last step of the chunk before, then the chunk.
template <class Q>
struct ChunkRows {
  Q *dsums = nullptr, *dh = nullptr, *h = nullptr;  // the latter with a projection: gradients of outputs, what went in
};

template <class T, class Q, class Cell>
class BackwardSteps {
  using Gates = typename Cell::Gates;
  using Groups = ColumnGroups<T, kTileCols>;
  using Norms = NormGroups<Gates>;

 public:
  BackwardSteps(const BackwardArgs<T>& args, const Plan& plan, const Share& share, int rank, Arena& arena)
      : a_(args), n_(args.sizes), plan_(plan), share_(share), part_rows_(divide_up(args.sizes.B, plan.row_parts)) {
    for (int64_t d = 0; d < n_.D; ++d) {
      const Weights<T>& w = args.weights[d];
      const bool direct = plan.direct_backward;
      if (n_.T > 1 || args.dh_0) w_hh_[d] = RightWeight<T, Q>(w.w_hh, Gates::kGates, n_.H, n_.P, direct, arena);
      if (w.w_hr) w_hr_[d] = RightWeight<T, Q>(w.w_hr, 1, n_.P, n_.H, direct, arena);
    }
    sums_ =
        take_for_each(plan.directions_at_once * plan.row_parts, share_.rows_owner, [&] { return take_sums(arena); });
    if (normalised()) norm_ = take_for_each(plan.threads, rank, [&] { return take_norm_values(arena); });
  }

  // For each row of a chunk.
  int64_t dsums_width() const { return Gates::kSums * n_.H; }
  int64_t dsums_ld() const { return row_ld<Q>(dsums_width()); }
  int64_t dh_ld() const { return row_ld<Q>(n_.P); }
  // Of a step, at most.
  int64_t part_rows() const { return part_rows_; }

  // The team member's share of the weights.
  void pack(Team team) const {
    for (int64_t d = 0; d < n_.D; ++d)
      for (const RightWeight<T, Q>* weight : {&w_hh_[d], &w_hr_[d]}) weight->pack(team);
  }

  void begin_direction(int64_t d) {
    d_ = d;
    for_own_columns([&](int64_t at, int n) {
      const auto clear = [&](Real<T>* sums, int count) {
        for (int i = 0; sums && i < count; ++i) store(sums + i * n_.H + at, Vec<T>{}, n);
      };
      clear(sums_.bias, Gates::kSums), clear(sums_.gain, Gates::kGates);
      clear(sums_.state_gain, 1), clear(sums_.state_bias, 1);
    });
  }
  void begin_chunk(const ChunkRows<Q>& rows, const Q* first_dsums) { rows_ = rows, chunk_dsums_ = first_dsums; }

  // From the gradients of the sums of the step that comes after, in forward's order, to those of step s.
  void run(const Steps& steps, int64_t s, const Q* next, Q* now) {
    const int64_t active = steps.active(s);
    const int64_t followed = steps.followed(s), begun = steps.begun(s);
    const int64_t low = smaller(followed, begun), high = larger(followed, begun);
    for (const Range rows : {Range{0, low}, Range{low, high}, Range{high, active}})
      if (rows.size() > 0) retreat(steps, s, rows, next, now, rows.end <= followed, rows.end <= begun);
    wait(share_.group, plan_.unit_parts, share_.place);
    if (a_.dh_0 && begun < active) finish(steps, {begun, active}, now);
  }

  // Whether gradients of biases are among what is added up here.
  bool adds_biases() const { return sums_.bias; }
  void write_sums(const WeightGradients<Real<T>>& to) const {
    for_own_columns([&](int64_t at, int n) {
      const auto write = [&](Real<T>* out, int64_t gate, const Real<T>* sums, int64_t sum) {
        if (out) store(out + gate * n_.H + at, load(sums + sum * n_.H + at, n), n);
      };
      for (int g = 0; sums_.bias && g < Gates::kGates; ++g) {
        write(to.b_ih, g, sums_.bias, Gates::x_sum(g)), write(to.b_hh, g, sums_.bias, Gates::h_sum(g));
        write(to.ln_hh, g, sums_.gain, g);
      }
      write(to.ln_c, 0, sums_.state_gain, 0), write(to.b_ln_c, 0, sums_.state_bias, 0);
    });
  }

 private:
  // What is added up beside products over rows: gradients of biases which dsums would round or do not hold, and of the
  // gains of a normalised layer. With these, for the threads that share a step's rows, the gradients of its normalised
  // products and cell state.
  struct Sums {
    Real<T>*bias = nullptr, *gain = nullptr, *state_gain = nullptr, *state_bias = nullptr;
    Real<T>*dnormal = nullptr, *dstate = nullptr;
  };
  // Of a normalised layer, for each thread: the gradients of h by groups of its units, and what all rows are normalised
  // by.
  struct NormValues {
    Real<T>* dh = nullptr;
    Moments<Real<T>>*products = nullptr, *state = nullptr;
    GradientMeans<Real<T>>*product_means = nullptr, *state_means = nullptr;
  };

  Sums take_sums(Arena& arena) const {
    const auto take = [&](int64_t elements) { return arena.take<Real<T>>(elements); };
    Sums s;
    if (normalised() || (kRounds<T, Q> && a_.weights[0].b_ih)) s.bias = take(dsums_width());
    if (!normalised()) return s;
    s.gain = take(Gates::kGates * n_.H), s.dnormal = take(part_rows_ * Gates::kGates * n_.H);
    if (Cell::kCellState >= 0) s.dstate = take(part_rows_ * n_.H), s.state_gain = take(n_.H), s.state_bias = take(n_.H);
    return s;
  }
  NormValues take_norm_values(Arena& arena) const {
    NormValues v;
    v.dh = arena.take<Real<T>>(groups_.padded() * dh_rows());
    v.products = arena.take<Moments<Real<T>>>(part_rows_ * Norms::kCount);
    v.state = arena.take<Moments<Real<T>>>(part_rows_);
    v.product_means = arena.take<GradientMeans<Real<T>>>(part_rows_ * Norms::kCount);
    v.state_means = arena.take<GradientMeans<Real<T>>>(part_rows_);
    return v;
  }
  bool normalised() const { return a_.weights[0].ln_hh; }
  int64_t dh_rows() const { return part_rows_ + kSpareRows<Q>; }

  // f(column, columns) for each vector of the thread's own units.
  template <class F>
  void for_own_columns(F&& f) const {
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    const int64_t end = smaller(groups.end * Groups::kWidth, n_.H);
    for (int64_t at = groups.begin * Groups::kWidth; at < end; at += kLanes<T>) f(at, valid_lanes<T>(at, n_.H));
  }

  void retreat(const Steps& steps, int64_t s, Range rows, const Q* next, Q* now, bool followed, bool begun) {
    if (normalised()) return retreat_normalised(steps, s, rows, next, now, followed, begun);
    if (a_.weights[d_].w_hr) return retreat_projected(steps, s, rows, next, now, followed, begun);
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    alignas(64) Real<T> buffers[kMatrix<Q> ? 2 : 1][kMostRows<Q> * kTileCols * kLanes<T>];
    BesideProducts<CellBackwardWork<T, Q, Cell>> cell_before;
    int64_t blocks = 0;
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      const int vectors = groups_.vectors(q);
      const Q* panel_after = next_panel(q, groups);
      int64_t block = 0;
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kTileRows), rows, [&](int64_t row, int count) {
        Real<T>* const sums = buffers[kMatrix<Q> ? blocks++ % 2 : 0];
        const Q* fetch = part_ahead<Q>(panel_after, Gates::kGates * whole_depth<Q>(n_.H), vectors, block++);
        if (followed) hidden_gradient(sums, steps, row, count, q, vectors, next, fetch, cell_before);
        cell_before.turn_to(count, [&] {
          CellBackwardWork<T, Q, Cell> cell{followed ? sums : nullptr, vectors, q * Groups::kWidth, n_.H,
                                            cell_rows(steps, s, row, now, begun)};
          add_outside(cell.at, steps, s, row, followed);
          return cell;
        });
        if (!kMatrix<Q> || !plan_.matrix_steps) cell_before.finish();
      });
    }
    cell_before.finish();
  }

  // That of W_hh for the group which comes after q, where the plan says to fetch it and it is packed.
  const Q* next_panel(int64_t q, Range groups) const {
    if (!plan_.fetch_panels || plan_.direct_backward) return nullptr;
    return w_hh_[d_].panel(q + 1 < groups.end ? q + 1 : groups.begin).data;
  }

  // dh = dgh W_hh over the gates of some rows of a step, whose dsums these are, for the q-th group of outputs.
  template <class Beside>
  void hidden_gradient(Real<T>* sums, const Steps& steps, int64_t row, int rows, int64_t q, int cols, const Q* dsums,
                       const Q* fetch, Beside&& beside) const {
    int64_t segment[Gates::kGates];
    for (int g = 0; g < Gates::kGates; ++g) segment[g] = Gates::h_sum(g) * n_.H;
    Panel<Q> panel = w_hh_[d_].panel(q);
    panel.fetch = fetch;
    plain_product<Q>(plan_.matrix_steps, sums, rows, cols,
                     {dsums + row * dsums_ld(), dsums_ld(), segment, Gates::kGates}, panel, n_.H, beside);
    if (!a_.h_mask) return;
    for (int r = 0; r < rows; ++r) {
      const T* const mask = mask_of(steps, row + r);
      for (int c = 0; c < cols; ++c) {
        const int64_t column = q * Groups::kWidth + c * kLanes<T>;
        Real<T>* const at = sums + (r * cols + c) * kLanes<T>;
        store(at, load(at) * load(mask + column, valid_lanes<T>(column, n_.P)));
      }
    }
  }

  const T* mask_of(const Steps& steps, int64_t row) const { return a_.h_mask + of_batch(steps, row) * n_.P; }

  // With a projection: first dh of the outputs, which stays for the gradient of w_hr; then dh W_hr goes through the
  // cell.
  void retreat_projected(const Steps& steps, int64_t s, Range rows, const Q* next, Q* now, bool followed, bool begun) {
    form_output_gradients(steps, s, rows, next, now, followed);
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kTileRows), rows, [&](int64_t row, int count) {
        alignas(64) Real<T> sums[kMostRows<Q> * kTileCols * kLanes<T>];
        const int vectors = groups_.vectors(q);
        unproject(sums, row, count, q, now);
        const CellGradientRows<T, Q> at = cell_rows(steps, s, row, now, begun);
        CellBackwardWork<T, Q, Cell>{sums, vectors, q * Groups::kWidth, n_.H, at}(0, count);
        form_hidden_again(row, count, q, now, at);
      });
    }
  }

  // Where the gradients of the outputs, and what was projected, are for rows whose dsums begin here.
  Q* projected_dh(const Q* now) const { return rows_.dh + (now - chunk_dsums_) / dsums_ld() * dh_ld(); }
  Q* projected_h(const Q* now) const { return rows_.h + (now - chunk_dsums_) / dsums_ld() * n_.H; }

  void form_output_gradients(const Steps& steps, int64_t s, Range rows, const Q* next, const Q* now, bool followed) {
    Q* const dh = projected_dh(now);
    const Range outputs = share({0, outputs_.count()}, share_.unit_part, plan_.unit_parts);
    for (int64_t q = outputs.begin; q < outputs.end; ++q) {
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kTileRows), rows, [&](int64_t row, int count) {
        alignas(64) Real<T> sums[kMostRows<Q> * kTileCols * kLanes<T>] = {};
        const int cols = outputs_.vectors(q);
        if (followed) hidden_gradient(sums, steps, row, count, q, cols, next, nullptr, Nothing());
        CellGradientRows<T, Q> at{};
        add_outside(at, steps, s, row, followed);
        for (int r = 0; r < count; ++r) {
          const T *const dy = at.dy.row(r), *const dh_T = at.dh_T.row(r);
          for (int c = 0; c < cols; ++c) {
            const int64_t column = q * Groups::kWidth + c * kLanes<T>;
            const int n = valid_lanes<T>(column, n_.P);
            const Vec<T> outside = load_or_zero(dy, column, n) + load_or_zero(dh_T, column, n);
            store(dh + (row + r) * dh_ld() + column, load(sums + (r * cols + c) * kLanes<T>) + outside, n);
          }
        }
      });
    }
    wait(share_.group, plan_.unit_parts, share_.place);
  }

  void unproject(Real<T>* sums, int64_t row, int rows, int64_t q, const Q* now) const {
    const int64_t start = 0;
    plain_product<Q>(plan_.matrix_steps, sums, rows, groups_.vectors(q),
                     {projected_dh(now) + row * dh_ld(), dh_ld(), &start, 1}, w_hr_[d_].panel(q), n_.P, Nothing());
  }

  void form_hidden_again(int64_t row, int rows, int64_t q, const Q* now, const CellGradientRows<T, Q>& at) const {
    if constexpr (Cell::kProjectable) {
      for (int r = 0; r < rows; ++r) {
        for (int u = 0; u < groups_.vectors(q); ++u) {
          const int64_t column = q * Groups::kWidth + u * kLanes<T>;
          const int n = valid_lanes<T>(column, n_.H);
          Vec<T> saved[kRoomForSaved<Cell>];
          load_saved<T, Cell>(saved, at.saved + r * at.saved_ld, at.values.all, r, at.norm, column, n);
          store(projected_h(now) + (row + r) * n_.H + column, Cell::template hidden<T>(saved), n);
        }
      }
    }
  }

  // Of a normalised layer: the gradient of h, from it that of the cell state, by the cell those of the gates, and from
  // these, normalised, those of the products with h. Between them the threads that divide units meet.
  void retreat_normalised(const Steps& steps, int64_t s, Range rows, const Q* next, Q* now, bool followed, bool begun) {
    const bool projected = a_.weights[d_].w_hr;
    if (projected) form_output_gradients(steps, s, rows, next, now, followed);
    const CellGradientRows<T, Q> first = cell_rows(steps, s, 0, now, begun);
    const auto saved_of = [&](int64_t row, int value) {
      return RowValues<T>{first.saved + row * first.saved_ld, first.values.all, value};
    };
    const auto products_of = [&](int64_t row, int group) {
      return saved_of(row, first.values.own + Norms::first(group));
    };
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      for_norm_groups<Gates>([&]<int group>() {
        norm_.products[row * Norms::kCount + group] = moments<T, Norms::size(group)>(products_of(row, group), n_.H);
      });
      if (Cell::kCellState >= 0) norm_.state[row] = moments<T, 1>(saved_of(row, Cell::kCellState), n_.H);
    }
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    const auto dh_of = [&](int64_t q, int64_t row) {
      return norm_.dh + q * Groups::kWidth * dh_rows() + row * groups_.vectors(q) * kLanes<T>;
    };
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kTileRows), rows, [&](int64_t row, int count) {
        const int vectors = groups_.vectors(q);
        if (projected)
          unproject(dh_of(q, row), row, count, q, now);
        else if (followed)
          hidden_gradient(dh_of(q, row), steps, row, count, q, vectors, next, nullptr, Nothing());
        else
          __builtin_memset(dh_of(q, row), 0, count * vectors * sizeof(Vec<T>));
      });
    }
    // All units of some rows before other rows: so what is saved of a row is read from its beginning to its end.
    const auto for_own_blocks = [&](auto&& f) {
      for_row_blocks(kTileRows, rows, [&](int64_t row, int count) {
        const CellGradientRows<T, Q> at = cell_rows(steps, s, row, now, begun);
        for (int64_t q = groups.begin; q < groups.end; ++q) f(q, row, count, at);
      });
    };
    for_own_blocks([&](int64_t q, int64_t row, int count, CellGradientRows<T, Q> at) {
      if (!projected) add_outside(at, steps, s, row, followed);
      apply_output_backward<T, Q, Cell>(dh_of(q, row), count, groups_.vectors(q), q * Groups::kWidth, n_.H, at);
    });
    if constexpr (Cell::kCellState >= 0) {
      wait(share_.group, plan_.unit_parts, share_.place);
      for (int64_t row = rows.begin; row < rows.end; ++row)
        norm_.state_means[row] = gradient_means<T, 1>({sums_.dstate + row * n_.H, 1, 0},
                                                      saved_of(row, Cell::kCellState), norm_.state[row], n_.H);
    }
    for_own_blocks([&](int64_t q, int64_t row, int count, const CellGradientRows<T, Q>& at) {
      CellBackwardWork<T, Q, Cell>{dh_of(q, row), groups_.vectors(q), q * Groups::kWidth, n_.H, at}(0, count);
      if (projected) form_hidden_again(row, count, q, now, at);
    });
    wait(share_.group, plan_.unit_parts, share_.place);
    for (int64_t row = rows.begin; row < rows.end; ++row)
      for_norm_groups<Gates>([&]<int group>() {
        const int64_t at = row * Norms::kCount + group;
        const RowValues<T> gradients{sums_.dnormal + row * Gates::kGates * n_.H, Gates::kGates, Norms::first(group)};
        norm_.product_means[at] =
            gradient_means<T, Norms::size(group)>(gradients, products_of(row, group), norm_.products[at], n_.H);
      });
    for_own_blocks([&](int64_t q, int64_t, int count, const CellGradientRows<T, Q>& at) {
      apply_products_backward<T, Q, Cell>(count, groups_.vectors(q), q * Groups::kWidth, n_.H, at);
    });
  }

  // Gradients of the outputs of rows from `row` on: of y, and of the final state where no step follows.
  void add_outside(CellGradientRows<T, Q>& at, const Steps& steps, int64_t s, int64_t row, bool followed) const {
    if (a_.dy) at.dy = steps.of_y(a_.dy + d_ * n_.P, n_.D * n_.P, s, row);
    if (a_.dh_T && !followed) at.dh_T = {a_.dh_T + of_batch(steps, row) * n_.P, steps.parts * n_.P};
  }

  int64_t of_batch(const Steps& steps, int64_t row) const { return steps.of_batch(d_, n_.B, row); }

  CellGradientRows<T, Q> cell_rows(const Steps& steps, int64_t s, int64_t row, Q* now, bool begun) const {
    CellGradientRows<T, Q> at{};
    const int64_t number = steps.number(s, row);
    at.values = saved_values<Cell>(a_.zoneout, normalised());
    const int64_t saved_width = at.values.all * n_.H, y_width = n_.D * n_.P;
    const T* y = a_.y + d_ * n_.P;
    const Real<T>* saved = a_.saved + d_ * n_.N * saved_width;
    at.saved = saved + number * saved_width, at.saved_ld = steps.stride() * saved_width;
    at.dcell_states = a_.dcell_states ? a_.dcell_states + (d_ * n_.N + number) * n_.H : nullptr;
    at.dcell_states_ld = steps.stride() * n_.H;
    at.h = steps.of_y(y, y_width, s, row);
    if (begun) {
      at.h_prev = steps.of_y(y, y_width, s - 1, row);
      at.saved_prev = saved + steps.number(s - 1, row) * saved_width;
    } else {
      at.h_prev = {a_.h_0 ? a_.h_0 + of_batch(steps, row) * n_.P : nullptr, steps.parts * n_.P};
      at.cell_state_prev = a_.cell_state_0 ? a_.cell_state_0 + of_batch(steps, row) * n_.H : nullptr;
      at.cell_state_prev_ld = steps.parts * n_.H;
    }
    at.carry = a_.carry ? a_.carry + of_batch(steps, row) * n_.H : nullptr, at.carry_ld = steps.parts * n_.H;
    Real<T>* const past = past_steps();
    at.h_carry = past ? past + of_batch(steps, row) * n_.H : nullptr, at.h_carry_ld = steps.parts * n_.H;
    if (a_.zoneout) at.zoneout = {&a_.zoneout, d_, steps.y_rows(s, row)};
    at.dsums = now + row * dsums_ld(), at.dsums_ld = dsums_ld(), at.bias = sums_.bias;
    if (normalised()) set_norm(at, steps, s, row);
    return at;
  }

  void set_norm(CellGradientRows<T, Q>& at, const Steps& steps, int64_t s, int64_t row) const {
    const Weights<T>& w = a_.weights[d_];
    const NormValues& values = norm_;
    const Sums& rows = sums_;
    const int64_t of_groups = row * Norms::kCount, width = Gates::kGates * n_.H;
    at.norm = {w.ln_hh, w.b_hh, w.ln_c, w.b_ln_c, values.products + of_groups, values.state + row};
    if (a_.dx) at.of_norm.dgx = steps.of_y(a_.dx + d_ * width, n_.D * width, s, row);
    at.of_norm.dnormal = rows.dnormal + row * width, at.of_norm.dnormal_ld = width;
    at.of_norm.dstate = rows.dstate ? rows.dstate + row * n_.H : nullptr, at.of_norm.dstate_ld = n_.H;
    at.of_norm.product_means = values.product_means + of_groups, at.of_norm.state_means = values.state_means + row;
    at.of_norm.gain = rows.gain, at.of_norm.state_gain = rows.state_gain, at.of_norm.state_bias = rows.state_bias;
  }

  // The gradient of h that passes steps by, or null: by a cell that carries it, or by zoneout.
  Real<T>* past_steps() const { return Cell::kCarry == Carry::kHidden ? a_.carry : a_.h_carry; }

  // The gradient of the initial hidden state, for rows whose first step this was.
  void finish(const Steps& steps, Range rows, const Q* now) {
    const Range outputs = share({0, outputs_.count()}, share_.unit_part, plan_.unit_parts);
    for (int64_t q = outputs.begin; q < outputs.end; ++q) {
      for_row_blocks(rows_at_once<Q>(plan_.matrix_steps, kTileRows), rows, [&](int64_t row, int count) {
        alignas(64) Real<T> sums[kMostRows<Q> * kTileCols * kLanes<T>];
        const int cols = outputs_.vectors(q);
        hidden_gradient(sums, steps, row, count, q, cols, now, nullptr, Nothing());
        for (int r = 0; r < count; ++r) {
          const int64_t at = of_batch(steps, row + r) * n_.P;
          for (int c = 0; c < cols; ++c) {
            const int64_t column = q * Groups::kWidth + c * kLanes<T>;
            const int n = valid_lanes<T>(column, n_.P);
            Vec<T> v = load(sums + (r * cols + c) * kLanes<T>);
            if (const Real<T>* past = past_steps()) v += load(past + at + column, n);
            store(a_.dh_0 + at + column, v, n);
          }
        }
      });
    }
  }

  const BackwardArgs<T>& a_;
  const Sizes n_;
  const Plan plan_;
  const Share share_;
  const Groups groups_{n_.H}, outputs_{n_.P};
  const int64_t part_rows_;
  int64_t d_ = 0;
  RightWeight<T, Q> w_hh_[2], w_hr_[2];
  Sums sums_;
  NormValues norm_;
  ChunkRows<Q> rows_;
  const Q* chunk_dsums_ = nullptr;
};

}  // namespace
}  // namespace fastrnn
