// A layer's backward pass. Steps are taken in chunks: the time loop leaves the gradients of a chunk's gate sums in L2,
// and the weight and input gradients are products over them at once. No atomics, so results are reproducible.
#pragma once

#include "cells.h"
#include "share-inl.h"

namespace fastrnn {
namespace {

// Rows of one step that go backward through the cell together. Pointers are null where a term is absent.
template <class T>
struct CellGradientRows {
  const T *saved, *h_prev, *memory_prev, *h;
  int64_t saved_ld, h_prev_ld, memory_prev_ld, h_ld;
  const T *dy, *dh_T;  // what comes from outside; from the next step come the products in `sums`
  int64_t dy_ld, dh_T_ld;
  T* carry;
  int64_t carry_ld;
  T* dsums;
  int64_t dsums_ld;
};

template <class T>
FASTRNN_INLINE Vec<T> load_or_zero(const T* p, int64_t offset, int n) {
  return p ? load(p + offset, n) : Vec<T>{};
}

// For the units from `unit` on; sums[r][u] is the gradient of h so far, null for none.
template <class T, class Cell>
FASTRNN_NOINLINE void apply_cell_backward(const T* sums, int rows, int units, int64_t unit, int64_t H,
                                          const CellGradientRows<T>& at) {
  for (int r = 0; r < rows; ++r) {
    for (int u = 0; u < units; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      StepValues<T, Cell> in{};
      in.dh = load_or_zero(at.dy, r * at.dy_ld + column, n) + load_or_zero(at.dh_T, r * at.dh_T_ld + column, n);
      if (sums) in.dh += load(sums + (r * units + u) * kLanes<T>);
      FASTRNN_UNROLL
      for (int i = 0; i < Cell::kSaved; ++i) in.saved[i] = load(at.saved + r * at.saved_ld + i * H + column, n);
      if (Cell::kReadsHidden) in.h_prev = load_or_zero(at.h_prev, r * at.h_prev_ld + column, n);
      if (Cell::kReadsOutput) in.h = load(at.h + r * at.h_ld + column, n);
      if (Cell::kMemory >= 0) in.memory_prev = load_or_zero(at.memory_prev, r * at.memory_prev_ld + column, n);
      Vec<T> carry{}, dsum[Cell::Gates::kSums];
      if (Cell::kCarry != Carry::kNone) carry = load(at.carry + r * at.carry_ld + column, n);
      Cell::template backward<T>(in, carry, dsum);
      if (Cell::kCarry != Carry::kNone) store(at.carry + r * at.carry_ld + column, carry, n);
      FASTRNN_UNROLL
      for (int a = 0; a < Cell::Gates::kSums; ++a) store(at.dsums + r * at.dsums_ld + a * H + column, dsum[a], n);
    }
  }
}

template <class T, class Cell>
class LayerBackward {
  using Gates = typename Cell::Gates;
  using Groups = ColumnGroups<T, kTileCols>;
  // Rows per chunk: the tiles of a weight gradient sum over as many before they are added to memory.
  static constexpr int64_t kChunkRows = 192;

 public:
  LayerBackward(const BackwardArgs<T>& args, const Plan& plan, Team team, T* workspace)
      : a_(args), n_(args.sizes), plan_(plan), team_(team), share_(plan, args.sizes, team), arena_{workspace} {
    const bool projected = args.weights[0].w_hr;
    for (int64_t d = 0; d < n_.D; ++d) {
      Panels& p = panels_[d];
      if (needs_recurrence()) p.h = arena_.take(outputs_.padded() * Gates::kGates * n_.H);
      if (args.dx) p.x = arena_.take(inputs_.padded() * Gates::kGates * n_.H);
      if (projected) p.projection = arena_.take(groups_.padded() * n_.P);
    }
    // The second direction's input gradient, where the first writes its own beside it.
    if (args.dx && n_.D == 2) other_dx_ = arena_.take(n_.N * n_.I);
    part_rows_ = divide_up(n_.B, plan.row_parts);
    chunk_rows_ = larger(kChunkRows, part_rows_);
    for (int64_t i = 0; i < plan.directions_at_once * plan.row_parts; ++i) {
      RowBuffers b;
      b.dsums = arena_.take((part_rows_ + chunk_rows_) * dsums_ld());
      if (projected) b.dh = arena_.take(chunk_rows_ * n_.P), b.h = arena_.take(chunk_rows_ * n_.H);
      if (i == share_.slot * plan.row_parts + share_.row_part) rows_ = b;
    }
    for (int i = 0; i < plan.threads; ++i) {
      ThreadBuffers b;
      b.left = arena_.take(chunk_rows_ * Gates::kSums * (divide_up(larger(n_.H, n_.P), kTileRows) + 1) * kTileRows);
      b.right = arena_.take(chunk_rows_ * Groups::kWidth);
      b.numbers = arena_.template take_as<int64_t>(chunk_rows_);
      b.previous = arena_.template take_as<const T*>(chunk_rows_);
      if (i == team.rank) mine_ = b;
    }
    for (int64_t d = 0; d < n_.D; ++d) {
      gradients_[d] = a_.gradients[d];
      for (int part = 1; part < plan.row_parts; ++part) {
        const int64_t before = arena_.used;
        const WeightGradients<T> w = private_gradients(a_.gradients[d]);
        if (part == 1) second_part_[d] = w, private_size_[d] = arena_.used - before;
        if (part == share_.row_part) gradients_[d] = w;
      }
    }
  }

  int64_t workspace() const { return arena_.used; }

  void run() {
    pack();
    wait(team_.barriers, team_.size);
    for (int64_t d = share_.directions.begin; d < share_.directions.end; ++d) run_direction(d);
    wait(team_.barriers, team_.size);
    reduce();
  }

 private:
  struct Panels {
    T *h = nullptr, *x = nullptr, *projection = nullptr;
  };
  // Shared by the threads of one part of the rows. dsums: the last step of the chunk before, then the chunk.
  struct RowBuffers {
    T *dsums = nullptr, *dh = nullptr, *h = nullptr;
  };
  // Operands of a weight gradient, and for each row of the chunk its number and the hidden state before it.
  struct ThreadBuffers {
    T *left = nullptr, *right = nullptr;
    int64_t* numbers = nullptr;
    const T** previous = nullptr;
  };

  bool needs_recurrence() const { return n_.T > 1 || a_.dh_0; }
  // One line more than the sums, so that rows do not fall into one set of the cache.
  int64_t dsums_ld() const { return Gates::kSums * n_.H + 64 / int64_t(sizeof(T)); }

  // The first part of the rows writes into the results, every other one beside them.
  WeightGradients<T> private_gradients(const WeightGradients<T>& of) {
    const int64_t gates = Gates::kGates * n_.H;
    WeightGradients<T> w{};
    if (of.w_ih) w.w_ih = arena_.take(gates * n_.I);
    if (of.w_hh) w.w_hh = arena_.take(gates * n_.P);
    if (of.b_ih) w.b_ih = arena_.take(gates);
    if (of.b_hh) w.b_hh = arena_.take(gates);
    if (of.w_hr) w.w_hr = arena_.take(n_.P * n_.H);
    return w;
  }

  void pack() {
    for (int64_t d = 0; d < n_.D; ++d) {
      const Weights<T>& w = a_.weights[d];
      if (panels_[d].h) pack_weight(panels_[d].h, w.w_hh, Gates::kGates * n_.H, outputs_);
      if (panels_[d].x) pack_weight(panels_[d].x, w.w_ih, Gates::kGates * n_.H, inputs_);
      if (panels_[d].projection) pack_weight(panels_[d].projection, w.w_hr, n_.P, groups_);
    }
  }

  // Where nothing is packed, a group of whole vectors is read as it lies; only a narrower last one is copied.
  bool in_place(const Groups& groups, int64_t q) const {
    return plan_.direct_backward && q * Groups::kWidth + groups.vectors(q) * kLanes<T> <= groups.columns;
  }

  void pack_weight(T* packed, const T* w, int64_t K, const Groups& groups) {
    const Range mine = share({0, groups.count()}, team_.rank, team_.size);
    for (int64_t q = mine.begin; q < mine.end; ++q) {
      if (in_place(groups, q)) continue;
      const auto row = [&](int64_t k) { return w + k * groups.columns; };
      pack_rows(packed + q * Groups::kWidth * K, row, K, q * Groups::kWidth, groups.vectors(q), groups.columns);
    }
  }

  Panel<T> panel(const T* packed, const T* w, int64_t K, const Groups& groups, int64_t q) const {
    if (in_place(groups, q)) return {w + q * Groups::kWidth, groups.columns};
    return {packed + q * Groups::kWidth * K, groups.vectors(q) * kLanes<T>};
  }

  void run_direction(int64_t d) {
    d_ = d;
    const Steps steps{a_.rows, n_.T, share_.row_part, plan_.row_parts, d == 1};
    bool first_chunk = true;
    for (int64_t end = n_.T; end > 0; first_chunk = false) {
      int64_t begin = end, rows = 0;
      do rows += steps.active(--begin);
      while (begin > 0 && rows + steps.active(begin - 1) <= chunk_rows_);
      run_chunk(steps, begin, end, rows, first_chunk);
      end = begin;
    }
  }

  // Steps end - 1 down to begin; their rows lie in dsums in this order.
  void run_chunk(const Steps& steps, int64_t begin, int64_t end, int64_t rows, bool first_chunk) {
    T* next = rows_.dsums;  // gradients of the step that comes after, in its forward order
    T* now = rows_.dsums + part_rows_ * dsums_ld();
    chunk_dsums_ = now;
    for (int64_t s = end - 1; s >= begin; --s) {
      step(steps, s, next, now);
      next = now;
      now += steps.active(s) * dsums_ld();
    }
    multiply_chunk(steps, begin, end, rows, first_chunk);
    if (share_.unit_part == 0) __builtin_memcpy(rows_.dsums, next, steps.active(begin) * dsums_ld() * sizeof(T));
    wait(share_.group, plan_.unit_parts);
  }

  void step(const Steps& steps, int64_t s, const T* next, T* now) {
    const int64_t active = steps.active(s);
    // Rows below `continued` have a step after this one; rows below `kept` had one before.
    const int64_t continued = steps.kept(s + 1), kept = steps.kept(s);
    const int64_t low = smaller(continued, kept), high = larger(continued, kept);
    for (const Range rows : {Range{0, low}, Range{low, high}, Range{high, active}})
      if (rows.size() > 0) retreat(steps, s, rows, next, now, rows.end <= continued, rows.end <= kept);
    wait(share_.group, plan_.unit_parts);
    if (a_.dh_0 && kept < active) finish(steps, {kept, active}, now);
  }

  void retreat(const Steps& steps, int64_t s, Range rows, const T* next, T* now, bool continued, bool kept) {
    if (a_.weights[d_].w_hr) return retreat_projected(steps, s, rows, next, now, continued, kept);
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      for_row_blocks(rows, [&](int64_t row, int count) {
        alignas(64) T sums[kTileRows * kTileCols * kLanes<T>];
        const int units = groups_.vectors(q);
        if (continued) hidden_gradient(sums, count, q, units, next + row * dsums_ld());
        CellGradientRows<T> at = cell_rows(steps, s, row, now, kept);
        add_outside(at, steps, s, row, continued);
        apply_cell_backward<T, Cell>(continued ? sums : nullptr, count, units, q * Groups::kWidth, n_.H, at);
      });
    }
  }

  // dh = dgh W_hh over the gates of some rows, for the q-th group of outputs.
  void hidden_gradient(T* sums, int rows, int64_t q, int cols, const T* dsums) const {
    int64_t segment[Gates::kGates];
    for (int g = 0; g < Gates::kGates; ++g) segment[g] = Gates::h_sum(g) * n_.H;
    product(sums, rows, cols, dsums, dsums_ld(), segment, Gates::kGates,
            panel(panels_[d_].h, a_.weights[d_].w_hh, Gates::kGates * n_.H, outputs_, q), n_.H);
  }

  // With a projection: first dh of the outputs, kept for the gradient of w_hr; then dh W_hr goes through the cell.
  void retreat_projected(const Steps& steps, int64_t s, Range rows, const T* next, T* now, bool continued, bool kept) {
    T* const dh = rows_.dh + (now - chunk_dsums_) / dsums_ld() * n_.P;
    T* const h = rows_.h + (now - chunk_dsums_) / dsums_ld() * n_.H;
    const Range outputs = share({0, outputs_.count()}, share_.unit_part, plan_.unit_parts);
    for (int64_t q = outputs.begin; q < outputs.end; ++q) {
      for_row_blocks(rows, [&](int64_t row, int count) {
        alignas(64) T sums[kTileRows * kTileCols * kLanes<T>] = {};
        const int cols = outputs_.vectors(q);
        if (continued) hidden_gradient(sums, count, q, cols, next + row * dsums_ld());
        CellGradientRows<T> at{};
        add_outside(at, steps, s, row, continued);
        for (int r = 0; r < count; ++r) {
          for (int c = 0; c < cols; ++c) {
            const int64_t column = q * Groups::kWidth + c * kLanes<T>;
            const int n = valid_lanes<T>(column, n_.P);
            const Vec<T> outside =
                load_or_zero(at.dy, r * at.dy_ld + column, n) + load_or_zero(at.dh_T, r * at.dh_T_ld + column, n);
            store(dh + (row + r) * n_.P + column, load(sums + (r * cols + c) * kLanes<T>) + outside, n);
          }
        }
      });
    }
    wait(share_.group, plan_.unit_parts);
    const Range groups = share({0, groups_.count()}, share_.unit_part, plan_.unit_parts);
    const int64_t start = 0;
    for (int64_t q = groups.begin; q < groups.end; ++q) {
      for_row_blocks(rows, [&](int64_t row, int count) {
        alignas(64) T sums[kTileRows * kTileCols * kLanes<T>];
        const int units = groups_.vectors(q);
        product(sums, count, units, dh + row * n_.P, n_.P, &start, 1,
                panel(panels_[d_].projection, a_.weights[d_].w_hr, n_.P, groups_, q), n_.P);
        const CellGradientRows<T> at = cell_rows(steps, s, row, now, kept);
        apply_cell_backward<T, Cell>(sums, count, units, q * Groups::kWidth, n_.H, at);
        if constexpr (requires { &Cell::template hidden<T>; }) {
          for (int r = 0; r < count; ++r) recompute_hidden(h + (row + r) * n_.H, at.saved + r * at.saved_ld, q, units);
        }
      });
    }
  }

  void recompute_hidden(T* h, const T* saved_row, int64_t q, int units) const {
    for (int u = 0; u < units; ++u) {
      const int64_t column = q * Groups::kWidth + u * kLanes<T>;
      const int n = valid_lanes<T>(column, n_.H);
      Vec<T> saved[Cell::kSaved + 1];
      FASTRNN_UNROLL
      for (int i = 0; i < Cell::kSaved; ++i) saved[i] = load(saved_row + i * n_.H + column, n);
      store(h + column, Cell::template hidden<T>(saved), n);
    }
  }

  // Gradients of the outputs of rows from `row` on: of y, and of the final state where no step follows.
  void add_outside(CellGradientRows<T>& at, const Steps& steps, int64_t s, int64_t row, bool continued) const {
    if (a_.dy) {
      at.dy = a_.dy + steps.row(s, row) * n_.D * n_.P + d_ * n_.P;
      at.dy_ld = steps.stride() * n_.D * n_.P;
    }
    if (a_.dh_T && !continued) {
      at.dh_T = a_.dh_T + of_batch(steps, row) * n_.P;
      at.dh_T_ld = steps.parts * n_.P;
    }
  }

  int64_t of_batch(const Steps& steps, int64_t row) const { return d_ * n_.B + steps.part + row * steps.parts; }

  CellGradientRows<T> cell_rows(const Steps& steps, int64_t s, int64_t row, T* now, bool kept) const {
    CellGradientRows<T> at{};
    const int64_t number = steps.row(s, row), before = kept ? steps.row(s - 1, row) : 0;
    const int64_t saved_width = Cell::kSaved * n_.H, y_width = n_.D * n_.P;
    const T* saved = a_.saved + d_ * n_.N * saved_width;
    at.saved = saved + number * saved_width, at.saved_ld = steps.stride() * saved_width;
    at.h = a_.y + number * y_width + d_ * n_.P, at.h_ld = steps.stride() * y_width;
    if (kept) {
      at.h_prev = a_.y + before * y_width + d_ * n_.P, at.h_prev_ld = at.h_ld;
      at.memory_prev = saved + before * saved_width + Cell::kMemory * n_.H, at.memory_prev_ld = at.saved_ld;
    } else {
      at.h_prev = a_.h_0 ? a_.h_0 + of_batch(steps, row) * n_.P : nullptr, at.h_prev_ld = steps.parts * n_.P;
      at.memory_prev = a_.memory_0 ? a_.memory_0 + of_batch(steps, row) * n_.H : nullptr;
      at.memory_prev_ld = steps.parts * n_.H;
    }
    at.carry = a_.carry ? a_.carry + of_batch(steps, row) * n_.H : nullptr, at.carry_ld = steps.parts * n_.H;
    at.dsums = now + row * dsums_ld(), at.dsums_ld = dsums_ld();
    return at;
  }

  // The gradient of the initial hidden state, for rows whose first step this was.
  void finish(const Steps& steps, Range rows, const T* now) {
    const Range outputs = share({0, outputs_.count()}, share_.unit_part, plan_.unit_parts);
    for (int64_t q = outputs.begin; q < outputs.end; ++q) {
      for_row_blocks(rows, [&](int64_t row, int count) {
        alignas(64) T sums[kTileRows * kTileCols * kLanes<T>];
        const int cols = outputs_.vectors(q);
        hidden_gradient(sums, count, q, cols, now + row * dsums_ld());
        for (int r = 0; r < count; ++r) {
          const int64_t at = of_batch(steps, row + r) * n_.P;
          for (int c = 0; c < cols; ++c) {
            const int64_t column = q * Groups::kWidth + c * kLanes<T>;
            const int n = valid_lanes<T>(column, n_.P);
            Vec<T> v = load(sums + (r * cols + c) * kLanes<T>);
            if (Cell::kCarry == Carry::kHidden) v += load(a_.carry + at + column, n);
            store(a_.dh_0 + at + column, v, n);
          }
        }
      });
    }
  }

  // Weight, bias and input gradients from the chunk's gate gradients.
  void multiply_chunk(const Steps& steps, int64_t begin, int64_t end, int64_t rows, bool first_chunk) {
    const WeightGradients<T>& w = gradients_[d_];
    list_rows(steps, begin, end);
    const Range units = own_rows(n_.H);
    if (w.b_ih) add_bias(w.b_ih, Gates::x_sum, units, rows, first_chunk);
    if (w.b_hh) add_bias(w.b_hh, Gates::h_sum, units, rows, first_chunk);
    const auto x = [this](int64_t k) { return a_.x + mine_.numbers[k] * n_.I; };
    const auto previous = [this](int64_t k) { return mine_.previous[k]; };
    if (w.w_ih || w.w_hh) pack_left<Gates::kSums>(chunk_dsums_, dsums_ld(), n_.H, rows, units);
    if (w.w_ih) add_outer(w.w_ih, inputs_, x, n_.H, Gates::kGates, Gates::x_sum, rows, units, first_chunk);
    if (w.w_hh) add_outer(w.w_hh, outputs_, previous, n_.H, Gates::kGates, Gates::h_sum, rows, units, first_chunk);
    if (w.w_hr) {
      const auto h = [this](int64_t k) { return rows_.h + k * n_.H; };
      const Range outputs = own_rows(n_.P);
      pack_left<1>(rows_.dh, n_.P, n_.P, rows, outputs);
      add_outer(w.w_hr, groups_, h, n_.P, 1, [](int) { return 0; }, rows, outputs, first_chunk);
    }
    if (a_.dx) input_gradient(rows);
  }

  void list_rows(const Steps& steps, int64_t begin, int64_t end) {
    int64_t k = 0;
    const T* y = a_.y + d_ * n_.P;
    for (int64_t s = end - 1; s >= begin; --s) {
      const int64_t kept = steps.kept(s);
      for (int64_t j = 0; j < steps.active(s); ++j, ++k) {
        mine_.numbers[k] = steps.row(s, j);
        if (j < kept)
          mine_.previous[k] = y + steps.row(s - 1, j) * n_.D * n_.P;
        else
          mine_.previous[k] = a_.h_0 ? a_.h_0 + of_batch(steps, j) * n_.P : nullptr;
      }
    }
  }

  // The thread's share of the `height` rows of each gate of a weight, in whole tiles.
  Range own_rows(int64_t height) const {
    const Range tiles = share({0, divide_up(height, kTileRows)}, share_.unit_part, plan_.unit_parts);
    return {smaller(tiles.begin * kTileRows, height), smaller(tiles.end * kTileRows, height)};
  }

  static int64_t left_size(Range columns, int64_t rows) {
    return divide_up(columns.size(), kTileRows) * kTileRows * rows;
  }

  template <int kSums>
  void pack_left(const T* src, int64_t ld, int64_t width, int64_t rows, Range columns) {
    for (int a = 0; a < kSums; ++a)
      pack_columns(mine_.left + a * left_size(columns, rows), src + a * width, ld, rows, columns);
  }

  // w[gate * height + columns] (+)= left^T right, where right(k) is the k-th row of the chunk, null for zeros.
  template <class Row, class SumOf>
  void add_outer(T* w, const Groups& groups, Row right, int64_t height, int gates, SumOf sum_of, int64_t rows,
                 Range columns, bool first_chunk) {
    const int64_t start = 0;
    for (int64_t q = 0; q < groups.count(); ++q) {
      const int cols = groups.vectors(q);
      pack_rows(mine_.right, right, rows, q * Groups::kWidth, cols, groups.columns);
      for (int gate = 0; gate < gates; ++gate) {
        const T* left = mine_.left + sum_of(gate) * left_size(columns, rows);
        for (int64_t m = columns.begin; m < columns.end; m += kTileRows, left += kTileRows * rows) {
          alignas(64) T out[kTileRows * kTileCols * kLanes<T>];
          with_constant<kTileCols>(cols, [&]<int kCols>() {
            product_tile<T, kCols, kTileRows, kTileRows>(out, left, 1, &start, 1, {mine_.right, cols * kLanes<T>},
                                                         rows);
          });
          const int valid = int(smaller(kTileRows, columns.end - m));
          add_tile(w + (gate * height + m) * groups.columns, out, valid, q, cols, groups, first_chunk);
        }
      }
    }
  }

  static void add_tile(T* w, const T* tile, int rows, int64_t q, int cols, const Groups& groups, bool overwrite) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) {
        const int64_t column = q * Groups::kWidth + c * kLanes<T>;
        const int n = valid_lanes<T>(column, groups.columns);
        T* at = w + r * groups.columns + column;
        const Vec<T> v = load(tile + (r * cols + c) * kLanes<T>);
        store(at, overwrite ? v : load(at, n) + v, n);
      }
    }
  }

  template <class SumOf>
  void add_bias(T* b, SumOf sum_of, Range columns, int64_t rows, bool overwrite) {
    for (int gate = 0; gate < Gates::kGates; ++gate) {
      for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) {
        const int n = valid_lanes<T>(c, columns.end);
        const T* src = chunk_dsums_ + sum_of(gate) * n_.H + c;
        // Several short sums are more accurate than a long one, and faster.
        constexpr int parts = 8;
        Vec<T> v[parts] = {};
        for (int64_t k = 0; k < rows; k += parts) {
          FASTRNN_UNROLL
          for (int i = 0; i < parts; ++i)
            if (k + i < rows) v[i] += load(src + (k + i) * dsums_ld(), n);
        }
        const Vec<T> sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
        T* at = b + gate * n_.H + c;
        store(at, overwrite ? sum : load(at, n) + sum, n);
      }
    }
  }

  void input_gradient(int64_t rows) {
    int64_t segment[Gates::kGates];
    for (int g = 0; g < Gates::kGates; ++g) segment[g] = Gates::x_sum(g) * n_.H;
    T* const dx = d_ == 0 ? a_.dx : other_dx_;
    for (int64_t q = 0; q < inputs_.count(); ++q) {
      for_row_blocks(share({0, rows}, share_.unit_part, plan_.unit_parts), [&](int64_t row, int count) {
        alignas(64) T out[kTileRows * kTileCols * kLanes<T>];
        const int cols = inputs_.vectors(q);
        product(out, count, cols, chunk_dsums_ + row * dsums_ld(), dsums_ld(), segment, Gates::kGates,
                panel(panels_[d_].x, a_.weights[d_].w_ih, Gates::kGates * n_.H, inputs_, q), n_.H);
        for (int r = 0; r < count; ++r)
          add_tile(dx + mine_.numbers[row + r] * n_.I, out + r * cols * kLanes<T>, 1, q, cols, inputs_, true);
      });
    }
  }

  // Adds what the other parts of the rows, and the second direction, wrote beside the results.
  void reduce() {
    const int64_t gates = Gates::kGates * n_.H;
    for (int64_t d = 0; d < n_.D; ++d) {
      for (int part = 1; part < plan_.row_parts; ++part) {
        const WeightGradients<T>&to = a_.gradients[d], &from = second_part_[d];
        const int64_t offset = (part - 1) * private_size_[d];
        add(to.w_ih, from.w_ih, offset, gates * n_.I);
        add(to.w_hh, from.w_hh, offset, gates * n_.P);
        add(to.b_ih, from.b_ih, offset, gates);
        add(to.b_hh, from.b_hh, offset, gates);
        add(to.w_hr, from.w_hr, offset, n_.P * n_.H);
      }
    }
    add(a_.dx, other_dx_, 0, n_.N * n_.I);
  }

  void add(T* to, const T* from, int64_t offset, int64_t elements) const {
    if (!to || !from) return;
    const Range mine = share({0, elements}, team_.rank, team_.size);
    for (int64_t i = mine.begin; i < mine.end; i += kLanes<T>) {
      const int n = valid_lanes<T>(i, mine.end);
      store(to + i, load(to + i, n) + load(from + offset + i, n), n);
    }
  }

  const BackwardArgs<T>& a_;
  const Sizes n_;
  const Plan plan_;
  const Team team_;
  const Share share_;
  Arena<T> arena_;
  const Groups groups_{n_.H}, outputs_{n_.P}, inputs_{n_.I};
  int64_t part_rows_ = 0, chunk_rows_ = 0, d_ = 0;
  T *other_dx_ = nullptr, *chunk_dsums_ = nullptr;
  Panels panels_[2];
  RowBuffers rows_;
  ThreadBuffers mine_;
  WeightGradients<T> gradients_[2], second_part_[2];
  int64_t private_size_[2] = {0, 0};
};

}  // namespace
}  // namespace fastrnn
