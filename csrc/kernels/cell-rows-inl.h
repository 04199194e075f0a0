// A cell on blocks of rows, forward and backward: what the time loops do with the sums of a step's products. T and Q as
// there.
#pragma once

#include "kernels/cells.h"
#include "kernels/panels-inl.h"
#include "kernels/share-inl.h"
#include "kernels/zoneout-inl.h"

namespace fastrnn {
namespace {

// Whether h is held beside what products take, where it is rounded: a cell that adds small steps to h would lose them.
template <class Q, class Cell>
constexpr bool kUnroundedHidden = Cell::kReadsHidden && !std::is_same_v<Q, Real<Q>>;

template <class Cell>
int64_t saved_values(const Zoneout& zoneout) {
  return zoneout ? kSavedWith<Cell, true> : kSavedWith<Cell, false>;
}

// Zoneout of rows that go through a step together. Null for none.
struct ZoneoutRows {
  const Zoneout* zoneout = nullptr;
  int64_t direction = 0;
  RowNumbers rows;

  explicit operator bool() const { return zoneout; }
  template <class T>
  FASTRNN_INLINE Stays<T> of_units(int64_t r, int64_t H, int64_t unit) const {
    return stays<T>(*zoneout, direction, rows[r], H, unit);
  }
};

// Rows of one step that go through the cell together, from the first of a block on.
template <class T>
struct CellRows {
  StepRows<const Real<T>> h_prev;
  Real<T>* cell_state;
  int64_t cell_state_ld;
  Real<T>* saved;  // null: nothing is saved
  int64_t saved_ld;
  StepRows<T> h;
  Real<T>* unrounded_h;  // where kUnroundedHidden
  int64_t unrounded_h_ld;
  Real<T>* cell_states;  // the cell state once more, where all are asked for; null if not
  int64_t cell_states_ld;
  ZoneoutRows zoneout;
};

// The cell on the rows from `begin` to `end` of a block of finished sums, for the units from `unit` on. Not inlined and
// not specialised by the number of rows, so that a row's result does not depend on the rows beside it.
template <class T, class Q, class Cell, bool kZoneout>
FASTRNN_NOINLINE void apply_cell(const Real<T>* sums, int begin, int end, int vectors, int64_t unit, int64_t H,
                                 const CellRows<T>& at) {
  constexpr int kSums = Cell::Gates::kSums, kSaved = kSavedWith<Cell, kZoneout>;
  for (int r = begin; r < end; ++r) {
    const Real<T>* const h_before = Cell::kReadsHidden || kZoneout ? at.h_prev.row(r) : nullptr;
    T* const h_after = at.h.row(r);
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      Vec<T> sum[kSums], saved[kSaved + 1], h_prev{}, cell_state{};
      FASTRNN_UNROLL
      for (int a = 0; a < kSums; ++a) sum[a] = load(sums + ((r * kSums + a) * vectors + u) * kLanes<T>);
      if (h_before) h_prev = load(h_before + column, n);
      if (Cell::kCellState >= 0) cell_state = load(at.cell_state + r * at.cell_state_ld + column, n);
      [[maybe_unused]] const Vec<T> cell_state_prev = cell_state;
      Vec<T> h = Cell::template forward<T>(sum, h_prev, cell_state, saved);
      if constexpr (kZoneout) {
        const Stays<T> stay = at.zoneout.template of_units<T>(r, H, column);
        if (Cell::kReadsOutput) saved[Cell::kSaved] = h;
        if (Cell::kCellState >= 0) saved[Cell::kSaved] = cell_state = mixed<T>(stay.c, cell_state_prev, cell_state);
        h = mixed<T>(stay.h, h_prev, h);
      }
      if (Cell::kCellState >= 0) {
        store(at.cell_state + r * at.cell_state_ld + column, cell_state, n);
        if (at.cell_states) store(at.cell_states + r * at.cell_states_ld + column, cell_state, n);
      }
      if (at.saved) {
        FASTRNN_UNROLL
        for (int i = 0; i < kSaved; ++i)
          store(at.saved + r * at.saved_ld + saved_at(kSaved, column, i, n), saved[i], n);
      }
      store(h_after + column, h, n);
      if constexpr (kUnroundedHidden<Q, Cell>) store(at.unrounded_h + r * at.unrounded_h_ld + column, h, n);
    }
  }
}

template <class T, class Q, class Cell>
struct CellWork {
  const Real<T>* sums;
  int vectors;
  int64_t unit, H;
  CellRows<T> at;

  void operator()(int begin, int end) const {
    const auto apply = at.zoneout ? apply_cell<T, Q, Cell, true> : apply_cell<T, Q, Cell, false>;
    apply(sums, begin, end, vectors, unit, H, at);
  }
};

// Rows of one step that go backward through the cell together. Pointers are null where a term is absent.
template <class T, class Q>
struct CellGradientRows {
  const Real<T>*saved, *saved_prev, *cell_state_prev;  // the cell state before: saved, or an initial one
  StepRows<const T> h_prev, h;
  int64_t saved_ld, cell_state_prev_ld;
  StepRows<const T> dy, dh_T;   // what comes from outside; from the next step come the products in `sums`
  const Real<T>* dcell_states;  // what comes from outside for the cell state of this step
  int64_t dcell_states_ld;
  Real<T>* carry;
  int64_t carry_ld;
  Q* dsums;
  int64_t dsums_ld;
  Real<T>* bias;  // [A*H]: adds up what dsums would round
  ZoneoutRows zoneout;
  Real<T>* h_carry;  // the gradient of h that passes the steps by, where units may stay
  int64_t h_carry_ld;
};

template <class T>
FASTRNN_INLINE Vec<T> load_or_zero(const T* p, int64_t offset, int n) {
  return p ? load(p + offset, n) : Vec<T>{};
}

// For the rows from `begin` to `end` of a block and the units from `unit` on; sums[r][u] is the gradient of h so far,
// null for none.
template <class T, class Q, class Cell, bool kZoneout>
FASTRNN_NOINLINE void apply_cell_backward(const Real<T>* sums, int begin, int end, int vectors, int64_t unit, int64_t H,
                                          const CellGradientRows<T, Q>& at) {
  constexpr int kSums = Cell::Gates::kSums, kSaved = kSavedWith<Cell, kZoneout>;
  [[maybe_unused]] Vec<T> bias[kTileCols][kSums];
  if constexpr (kRounds<T, Q>) __builtin_memset(bias, 0, sizeof bias);
  for (int r = begin; r < end; ++r) {
    const T *const dy = at.dy.row(r), *const dh_T = at.dh_T.row(r);
    const T* const h_prev = Cell::kReadsHidden ? at.h_prev.row(r) : nullptr;
    const T* const h = Cell::kReadsOutput ? at.h.row(r) : nullptr;
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      StepValues<T, Cell> in{};
      in.dh = load_or_zero(dy, column, n) + load_or_zero(dh_T, column, n);
      if (sums) in.dh += load(sums + (r * vectors + u) * kLanes<T>);
      FASTRNN_UNROLL
      for (int i = 0; i < Cell::kSaved; ++i)
        in.saved[i] = load(at.saved + r * at.saved_ld + saved_at(kSaved, column, i, n), n);
      if (Cell::kReadsHidden) in.h_prev = load_or_zero(h_prev, column, n);
      if (Cell::kReadsOutput)
        in.h = kZoneout ? Vec<T>(load(at.saved + r * at.saved_ld + saved_at(kSaved, column, Cell::kSaved, n), n))
                        : Vec<T>(load(h + column, n));
      if (Cell::kCellState >= 0)
        in.cell_state_prev = at.saved_prev
                                 ? load(at.saved_prev + r * at.saved_ld + saved_at(kSaved, column, kSaved - 1, n), n)
                                 : load_or_zero(at.cell_state_prev, r * at.cell_state_prev_ld + column, n);
      Vec<T> carry{}, dsum[kSums];
      if (Cell::kCarry != Carry::kNone) carry = load(at.carry + r * at.carry_ld + column, n);
      if (Cell::kCarry == Carry::kCellState && at.dcell_states)
        carry += load(at.dcell_states + r * at.dcell_states_ld + column, n);
      if constexpr (kZoneout) {
        const Stays<T> stay = at.zoneout.template of_units<T>(r, H, column);
        const Vec<T> dh = in.dh + load_or_zero(at.h_carry, r * at.h_carry_ld + column, n), dcell_state = carry;
        in.dh = (1 - stay.h) * dh;
        carry = Cell::kCarry == Carry::kCellState ? Vec<T>((1 - stay.c) * dcell_state) : Vec<T>{};
        Cell::template backward<T>(in, carry, dsum);
        Vec<T> dh_past = stay.h * dh;
        if (Cell::kCarry == Carry::kHidden) dh_past += carry;
        if (Cell::kCarry == Carry::kCellState) carry += stay.c * dcell_state;
        if (at.h_carry) store(at.h_carry + r * at.h_carry_ld + column, dh_past, n);
      } else {
        Cell::template backward<T>(in, carry, dsum);
      }
      if (Cell::kCarry != Carry::kNone && !(kZoneout && Cell::kCarry == Carry::kHidden))
        store(at.carry + r * at.carry_ld + column, carry, n);
      FASTRNN_UNROLL
      for (int a = 0; a < kSums; ++a) {
        store(at.dsums + r * at.dsums_ld + a * H + column, dsum[a], n);
        if constexpr (kRounds<T, Q>) bias[u][a] += dsum[a];
      }
    }
  }
  if constexpr (kRounds<T, Q>) {
    for (int u = 0; at.bias && u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      for (int a = 0; a < kSums; ++a)
        store(at.bias + a * H + column, load(at.bias + a * H + column, n) + bias[u][a], n);
    }
  }
}

template <class T, class Q, class Cell>
struct CellBackwardWork {
  const Real<T>* sums;
  int vectors;
  int64_t unit, H;
  CellGradientRows<T, Q> at;

  void operator()(int begin, int end) const {
    const auto apply = at.zoneout ? apply_cell_backward<T, Q, Cell, true> : apply_cell_backward<T, Q, Cell, false>;
    apply(sums, begin, end, vectors, unit, H, at);
  }
};

}  // namespace
}  // namespace fastrnn
