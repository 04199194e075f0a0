// The facts of every cell, checked as far as a compiler can, and the way from a run-time kind to a cell.
#pragma once

#include "kernels/cells.h"

namespace fastrnn {
namespace {

template <class Gates>
constexpr bool sums_exist() {
  for (int gate = 0; gate < Gates::kGates; ++gate) {
    if (Gates::x_sum(gate) < 0 || Gates::x_sum(gate) >= Gates::kSums) return false;
    if (Gates::h_sum(gate) < 0 || Gates::h_sum(gate) >= Gates::kSums) return false;
  }
  return true;
}

template <class Gates>
constexpr bool sums_are_used() {
  for (int sum = 0; sum < Gates::kSums; ++sum) {
    bool used = false;
    for (int gate = 0; gate < Gates::kGates; ++gate) used |= Gates::x_sum(gate) == sum || Gates::h_sum(gate) == sum;
    if (!used) return false;
  }
  return true;
}

template <class Gates>
constexpr bool apart_come_last() {
  bool apart = false;
  for (int gate = 0; gate < Gates::kGates; ++gate) {
    if (apart && Gates::x_sum(gate) == Gates::h_sum(gate)) return false;
    apart |= Gates::x_sum(gate) != Gates::h_sum(gate);
  }
  return true;
}

template <class Gates>
constexpr uint32_t gates_apart() {
  uint32_t bits = 0;
  for (int gate = 0; gate < Gates::kGates; ++gate)
    if (Gates::x_sum(gate) != Gates::h_sum(gate)) bits |= uint32_t(1) << gate;
  return bits;
}

template <class Cell, class V = Vec<float>>
concept HasForward = requires(const V* sum, V h, V& cell_state, V* saved) {
  h = Cell::template forward<float>(sum, h, cell_state, saved);
};
template <class Cell, class V = Vec<float>>
concept HasBackward =
    requires(const StepValues<float, Cell>& at, V& carry, V* dsum) { Cell::template backward<float>(at, carry, dsum); };
template <class Cell, class V = Vec<float>>
concept HasHidden = requires(const V* saved, V h) { h = Cell::template hidden<float>(saved); };

template <class Cell, class V = Vec<float>>
concept HasToState = requires(const StepValues<float, Cell>& at, V d) { d = Cell::template to_state<float>(at); };

template <class Cell>
constexpr CellFacts facts_of() {
  using Gates = typename Cell::Gates;
  constexpr int gates = Gates::kGates;
  constexpr bool has_cell_state = Cell::kCellState != -1;
  static_assert(gates >= 1 && gates <= 32, "kGates: a cell has a gate, and at most one for each bit of apart");
  static_assert(Gates::kSums >= 1, "kSums: a cell has a sum");
  static_assert(sums_exist<Gates>(), "x_sum and h_sum: those of every gate are in [0, kSums)");
  static_assert(sums_are_used<Gates>(), "kSums: every sum takes a product, as x_sum or h_sum of a gate");
  static_assert(apart_come_last<Gates>(),
                "x_sum and h_sum: gates whose products stay apart come last, for their norms");
  static_assert(Cell::kSaved >= 0, "kSaved is a number of values");
  static_assert(!has_cell_state || (Cell::kCellState >= 0 && Cell::kCellState == Cell::kSaved - 1),
                "kCellState: the cell state is the last saved value, at kSaved - 1, or there is none, -1");
  static_assert((Cell::kCarry == Carry::kCellState) == has_cell_state,
                "kCarry: the gradient of a cell state is carried, and without one it cannot be");
  static_assert(!(has_cell_state && Cell::kReadsOutput),
                "kReadsOutput: not beside a cell state, with which it would be "
                "a second value that zoneout saves");
  static_assert(Cell::kUnitVectors >= 1, "kUnitVectors: a register tile covers a vector of units");
  static_assert(HasForward<Cell>,
                "forward takes (sum, h_prev, cell_state, saved) and gives h: one state beside h at most");
  static_assert(HasBackward<Cell>, "backward takes (StepValues, carry, dsum)");
  static_assert(has_cell_state == HasHidden<Cell> && has_cell_state == HasToState<Cell>,
                "hidden(saved), which gives h, and to_state(StepValues), its gradient: of a cell with a cell state");
  static_assert(!Cell::kProjectable || has_cell_state, "kProjectable: h is formed again, by hidden()");
  static_assert(!Cell::kProjectable || !(Cell::kReadsHidden || Cell::kReadsOutput || Cell::kCarry == Carry::kHidden),
                "kProjectable: what a cell finds as h is projected then, so it cannot read h or carry its gradient");
  return {Cell::kName,           gates,
          Gates::kSums,          gates_apart<Gates>(),
          Cell::kSaved,          has_cell_state ? 2 : 1,
          kSavedByZoneout<Cell>, Cell::kCarry != Carry::kNone,
          Cell::kProjectable};
}

template <class List>
struct Facts;

template <class... Cell>
struct Facts<TypeList<Cell...>> {
  static constexpr int count = sizeof...(Cell);
  static constexpr CellFacts of[count] = {facts_of<Cell>()...};

  static constexpr bool names_differ() {
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < i; ++j)
        if (__builtin_strcmp(of[i].name, of[j].name) == 0) return false;
    return true;
  }
};

using CellTable = Facts<Cells>;
static_assert(CellTable::names_differ(), "kName: no two cells have the same");

// f.operator()<Cell>() for the cell of a run-time kind.
template <class F, class First, class... Others>
FASTRNN_INLINE auto with_cell(TypeList<First, Others...>, CellKind kind, F&& f) {
  if constexpr (sizeof...(Others) > 0) {
    if (kind != CellKind(0)) return with_cell(TypeList<Others...>(), CellKind(int(kind) - 1), f);
  }
  return f.template operator()<First>();
}
template <class F>
FASTRNN_INLINE auto with_cell(CellKind kind, F&& f) {
  return with_cell(Cells(), kind, f);
}

}  // namespace
}  // namespace fastrnn
