// A cell on blocks of rows, forward and backward: what the time loops do with the sums of a step's products. T and Q as
// there.
#pragma once

#include "kernels/cells.h"
#include "kernels/layer-norm-inl.h"
#include "kernels/panels-inl.h"
#include "kernels/share-inl.h"
#include "kernels/zoneout-inl.h"

namespace fastrnn {
namespace {

// Whether h is held beside what products take, where it is rounded: a cell that adds small steps to h would lose them.
template <class Q, class Cell>
constexpr bool kUnroundedHidden = Cell::kReadsHidden && !std::is_same_v<Q, Real<Q>>;

template <class T>
FASTRNN_INLINE Vec<T> load_or_zero(const T* p, int64_t offset, int n) {
  return p ? load(p + offset, n) : Vec<T>{};
}

// The values of a row that its cell saved, with the cell state as h is formed from it. The row's number counts where
// that is normalised.
template <class T, class Cell>
FASTRNN_INLINE void load_saved(Vec<T>* saved, const Real<T>* row, int values, int64_t r, const NormRows<T>& norm,
                               int64_t column, int n) {
  FASTRNN_UNROLL
  for (int i = 0; i < Cell::kSaved; ++i) saved[i] = load(row + saved_at(values, column, i, n), n);
  if constexpr (Cell::kCellState >= 0) {
    Vec<T>& c = saved[Cell::kCellState];
    if (norm) c = norm.output(normalised<T>(c, norm.state[r]), column, n);
  }
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
  SavedValues values;
  StepRows<T> h;
  Real<T>* unrounded_h;  // where kUnroundedHidden
  int64_t unrounded_h_ld;
  Real<T>* cell_states;  // the cell state once more, where all are asked for; null if not
  int64_t cell_states_ld;
  ZoneoutRows zoneout;
  NormRows<T> norm;  // with a cell state h is for apply_output

  bool plain() const { return !zoneout && !norm; }
};

// The cell on the rows from `begin` to `end` of a block of finished sums, for the units from `unit` on. Not inlined and
// not specialised by the number of rows, so that a row's result does not depend on the rows beside it.
template <class T, class Q, class Cell, bool kPlain>
FASTRNN_NOINLINE void apply_cell(const Real<T>* sums, int begin, int end, int vectors, int64_t unit, int64_t H,
                                 const CellRows<T>& at) {
  constexpr int kSums = Cell::Gates::kSums;
  const int values = kPlain ? Cell::kSaved : at.values.all;
  for (int r = begin; r < end; ++r) {
    const Real<T>* const h_before = Cell::kReadsHidden || !kPlain ? at.h_prev.row(r) : nullptr;
    T* const h_after = at.h.row(r);
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      Vec<T> sum[kSums], saved[Cell::kSaved + 1], h_prev{}, cell_state{};
      FASTRNN_UNROLL
      for (int a = 0; a < kSums; ++a) sum[a] = load(sums + ((r * kSums + a) * vectors + u) * kLanes<T>);
      if (h_before) h_prev = load(h_before + column, n);
      if (Cell::kCellState >= 0) cell_state = load(at.cell_state + r * at.cell_state_ld + column, n);
      [[maybe_unused]] const Vec<T> cell_state_prev = cell_state;
      Vec<T> h = Cell::template forward<T>(sum, h_prev, cell_state, saved);
      Real<T>* const to = at.saved ? at.saved + r * at.saved_ld : nullptr;
      if (!kPlain && at.zoneout) {
        const Stays<T> stay = at.zoneout.template of_units<T>(r, H, column);
        if (Cell::kReadsOutput) saved[Cell::kSaved] = h;
        if (Cell::kCellState >= 0) saved[Cell::kSaved] = cell_state = mixed<T>(stay.c, cell_state_prev, cell_state);
        h = mixed<T>(stay.h, h_prev, h);
        if (kSavedByZoneout<Cell> && to) store(to + saved_at(values, column, Cell::kSaved, n), saved[Cell::kSaved], n);
      }
      if (Cell::kCellState >= 0) {
        store(at.cell_state + r * at.cell_state_ld + column, cell_state, n);
        if (at.cell_states) store(at.cell_states + r * at.cell_states_ld + column, cell_state, n);
      }
      if (to) {
        FASTRNN_UNROLL
        for (int i = 0; i < Cell::kSaved; ++i) store(to + saved_at(values, column, i, n), saved[i], n);
      }
      if (!kPlain && Cell::kCellState >= 0 && at.norm) continue;
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
    const auto apply = at.plain() ? apply_cell<T, Q, Cell, true> : apply_cell<T, Q, Cell, false>;
    apply(sums, begin, end, vectors, unit, H, at);
  }
};

// h of the rows of a block, from their cell state normalised.
template <class T, class Q, class Cell>
FASTRNN_NOINLINE void apply_output(int rows, int vectors, int64_t unit, int64_t H, const CellRows<T>& at) {
  for (int r = 0; r < rows; ++r) {
    const Real<T>* const h_before = at.zoneout ? at.h_prev.row(r) : nullptr;
    const Real<T>* const from = at.saved + r * at.saved_ld;
    T* const h_after = at.h.row(r);
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      Vec<T> saved[kRoomForSaved<Cell>];
      load_saved<T, Cell>(saved, from, at.values.all, r, at.norm, column, n);
      Vec<T> h = Cell::template hidden<T>(saved);
      if (at.zoneout) {
        const Stays<T> stay = at.zoneout.template of_units<T>(r, H, column);
        h = mixed<T>(stay.h, load_or_zero(h_before, column, n), h);
      }
      store(h_after + column, h, n);
      if constexpr (kUnroundedHidden<Q, Cell>) store(at.unrounded_h + r * at.unrounded_h_ld + column, h, n);
    }
  }
}

// Rows of one step that go backward through the cell together. Pointers are null where a term is absent.
template <class T, class Q>
struct CellGradientRows {
  const Real<T>*saved, *saved_prev, *cell_state_prev;  // the cell state before: saved, or an initial one
  StepRows<const T> h_prev, h;
  int64_t saved_ld, cell_state_prev_ld;
  SavedValues values;
  StepRows<const T> dy, dh_T;   // what comes from outside; from the next step come the products in `sums`
  const Real<T>* dcell_states;  // what comes from outside for the cell state of this step
  int64_t dcell_states_ld;
  Real<T>* carry;
  int64_t carry_ld;
  Q* dsums;
  int64_t dsums_ld;
  Real<T>* bias;  // [A*H]: adds up what dsums would round, or do not hold
  ZoneoutRows zoneout;
  Real<T>* h_carry;  // the gradient of h that passes the steps by, where units may stay
  int64_t h_carry_ld;
  NormRows<T> norm;
  NormGradientRows<T> of_norm;

  bool plain() const { return !zoneout && !norm; }
};

// For the rows from `begin` to `end` of a block and the units from `unit` on; sums[r][u] is the gradient of h so far,
// null for none.
template <class T, class Q, class Cell, bool kPlain>
FASTRNN_NOINLINE void apply_cell_backward(const Real<T>* sums, int begin, int end, int vectors, int64_t unit, int64_t H,
                                          const CellGradientRows<T, Q>& at) {
  using Gates = typename Cell::Gates;
  constexpr int kSums = Gates::kSums;
  constexpr bool kHasState = Cell::kCellState >= 0, kAddsUp = kRounds<T, Q> || !kPlain;
  const SavedValues values = kPlain ? SavedValues{Cell::kSaved, Cell::kSaved} : at.values;
  [[maybe_unused]] Vec<T> bias[kTileCols][kSums], gain[kTileCols][kPlain ? 1 : Gates::kGates];
  if constexpr (kAddsUp) __builtin_memset(bias, 0, sizeof bias);
  if constexpr (!kPlain) __builtin_memset(gain, 0, sizeof gain);
  for (int r = begin; r < end; ++r) {
    const T *const dy = at.dy.row(r), *const dh_T = at.dh_T.row(r);
    const T* const h_prev = Cell::kReadsHidden ? at.h_prev.row(r) : nullptr;
    const T* const h = Cell::kReadsOutput ? at.h.row(r) : nullptr;
    const Real<T>* const saved = at.saved + r * at.saved_ld;
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      StepValues<T, Cell> in{};
      in.dh = load_or_zero(dy, column, n) + load_or_zero(dh_T, column, n);
      if (sums) in.dh += load(sums + (r * vectors + u) * kLanes<T>);
      load_saved<T, Cell>(in.saved, saved, values.all, r, kPlain ? NormRows<T>{} : at.norm, column, n);
      if (Cell::kReadsHidden) in.h_prev = load_or_zero(h_prev, column, n);
      if (Cell::kReadsOutput)
        in.h = !kPlain && at.zoneout ? Vec<T>(load(saved + saved_at(values.all, column, Cell::kSaved, n), n))
                                     : Vec<T>(load(h + column, n));
      if (kHasState)
        in.cell_state_prev =
            at.saved_prev ? load(at.saved_prev + r * at.saved_ld + saved_at(values.all, column, values.own - 1, n), n)
                          : load_or_zero(at.cell_state_prev, r * at.cell_state_prev_ld + column, n);
      Vec<T> carry{}, dsum[kSums];
      if (Cell::kCarry != Carry::kNone) carry = load(at.carry + r * at.carry_ld + column, n);
      if (kHasState && at.dcell_states) carry += load(at.dcell_states + r * at.dcell_states_ld + column, n);
      if constexpr (kPlain) {
        if constexpr (kHasState) carry += Cell::template to_state<T>(in);
        Cell::template backward<T>(in, carry, dsum);
      } else {
        const Stays<T> stay = at.zoneout ? at.zoneout.template of_units<T>(r, H, column) : Stays<T>{};
        const Vec<T> dh = in.dh + load_or_zero(at.h_carry, r * at.h_carry_ld + column, n), dcell_state = carry;
        in.dh = (1 - stay.h) * dh;
        carry = kHasState ? Vec<T>((1 - stay.c) * dcell_state) : Vec<T>{};
        if constexpr (kHasState) {
          if (at.norm)
            carry +=
                at.norm.to_state(at.of_norm, saved + saved_at(values.all, column, Cell::kCellState, n), r, column, n);
          else
            carry += Cell::template to_state<T>(in);
        }
        Cell::template backward<T>(in, carry, dsum);
        Vec<T> dh_past = stay.h * dh;
        if (Cell::kCarry == Carry::kHidden) dh_past += carry;
        if (kHasState) carry += stay.c * dcell_state;
        if (at.h_carry) store(at.h_carry + r * at.h_carry_ld + column, dh_past, n);
      }
      if (kHasState || (kPlain && Cell::kCarry != Carry::kNone)) store(at.carry + r * at.carry_ld + column, carry, n);
      if constexpr (kAddsUp) {
        FASTRNN_UNROLL
        for (int a = 0; a < kSums; ++a) bias[u][a] += dsum[a];
      }
      if (!kPlain && at.norm) {
        Real<T>* const dgx = at.of_norm.dgx.row(r);
        FASTRNN_UNROLL
        for (int g = 0; g < Gates::kGates; ++g) {
          if (dgx) store(dgx + g * H + column, dsum[Gates::x_sum(g)], n);
          const Vec<T> of_product = dsum[Gates::h_sum(g)];
          gain[u][g] += of_product * at.norm.template product<Gates>(saved, values, r, g, column, n);
          store(at.of_norm.dnormal + r * at.of_norm.dnormal_ld + saved_at(Gates::kGates, column, g, n),
                of_product * load(at.norm.gain + g * H + column, n), n);
        }
        continue;
      }
      FASTRNN_UNROLL
      for (int a = 0; a < kSums; ++a) store(at.dsums + r * at.dsums_ld + a * H + column, dsum[a], n);
    }
  }
  if constexpr (kAddsUp) {
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      for (int a = 0; at.bias && a < kSums; ++a) add_to(at.bias + a * H + column, bias[u][a], n);
      for (int g = 0; !kPlain && at.norm && g < Gates::kGates; ++g)
        add_to(at.of_norm.gain + g * H + column, gain[u][g], n);
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
    const auto apply = at.plain() ? apply_cell_backward<T, Q, Cell, true> : apply_cell_backward<T, Q, Cell, false>;
    apply(sums, begin, end, vectors, unit, H, at);
  }
};

// Of a normalised layer, before the cell: adds to sums[r][u] what comes from outside, so that it is the gradient of h,
// and forms from it that of the normalised cell state.
template <class T, class Q, class Cell>
FASTRNN_NOINLINE void apply_output_backward(Real<T>* sums, int rows, int vectors, int64_t unit, int64_t H,
                                            const CellGradientRows<T, Q>& at) {
  for (int r = 0; r < rows; ++r) {
    const T *const dy = at.dy.row(r), *const dh_T = at.dh_T.row(r);
    const Real<T>* const saved = at.saved + r * at.saved_ld;
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      Real<T>* const sum = sums + (r * vectors + u) * kLanes<T>;
      const Vec<T> dh = load(sum) + load_or_zero(dy, column, n) + load_or_zero(dh_T, column, n);
      store(sum, dh);
      if constexpr (Cell::kCellState >= 0) {
        const Stays<T> stay = at.zoneout ? at.zoneout.template of_units<T>(r, H, column) : Stays<T>{};
        StepValues<T, Cell> in{};
        in.dh = (1 - stay.h) * (dh + load_or_zero(at.h_carry, r * at.h_carry_ld + column, n));
        load_saved<T, Cell>(in.saved, saved, at.values.all, r, at.norm, column, n);
        const Vec<T> doutput = Cell::template to_state<T>(in);
        const Vec<T> c = load(saved + saved_at(at.values.all, column, Cell::kCellState, n), n);
        add_to(at.of_norm.state_gain + column, doutput * normalised<T>(c, at.norm.state[r]), n);
        add_to(at.of_norm.state_bias + column, doutput, n);
        store(at.of_norm.dstate + r * at.of_norm.dstate_ld + column, doutput * load(at.norm.state_gain + column, n), n);
      }
    }
  }
}

// Of a normalised layer, behind the cell: the gradients of the products with h.
template <class T, class Q, class Cell>
FASTRNN_NOINLINE void apply_products_backward(int rows, int vectors, int64_t unit, int64_t H,
                                              const CellGradientRows<T, Q>& at) {
  using Gates = typename Cell::Gates;
  using Groups = NormGroups<Gates>;
  for (int r = 0; r < rows; ++r) {
    const Real<T>* const saved = at.saved + r * at.saved_ld;
    const Real<T>* const dnormal = at.of_norm.dnormal + r * at.of_norm.dnormal_ld;
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      FASTRNN_UNROLL
      for (int g = 0; g < Gates::kGates; ++g) {
        const int64_t group = r * Groups::kCount + Groups::of(g);
        const Vec<T> d = through_norm<T>(load(dnormal + saved_at(Gates::kGates, column, g, n), n),
                                         at.norm.template product<Gates>(saved, at.values, r, g, column, n),
                                         at.of_norm.product_means[group], at.norm.products[group].scale);
        const auto put = [&](int sum, Vec<T> v) { store(at.dsums + r * at.dsums_ld + sum * H + column, v, n); };
        put(Gates::h_sum(g), d);
        // No product takes it, but the matrix unit reads on from the sum before, and multiplies that by zeros.
        if (Gates::x_sum(g) != Gates::h_sum(g)) put(Gates::x_sum(g), Vec<T>{});
      }
    }
  }
}

}  // namespace
}  // namespace fastrnn
