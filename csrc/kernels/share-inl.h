// Which part of a layer a thread works on, in which order, and where in the workspace.
#pragma once

#include "kernels/arguments.h"
#include "kernels/tiles-inl.h"

namespace fastrnn {
namespace {

// A thread's directions, its part of their rows and its part of their units.
struct Share {
  Range directions{0, 0};
  int64_t slot = 0;  // which of the directions that run at once
  int64_t row_part = 0, unit_part = 0;
  int64_t rows_owner = -1;   // the threads that share these rows, by number
  Barrier* group = nullptr;  // theirs
  Place* place = nullptr;

  Share(const Plan& plan, const Sizes& sizes, Team team) {
    const int per_direction = plan.row_parts * plan.unit_parts;
    slot = team.rank / per_direction;
    place = team.place;
    if (slot >= plan.directions_at_once) return;
    directions = plan.directions_at_once == 1 ? Range{0, sizes.D} : Range{slot, slot + 1};
    row_part = team.rank % per_direction / plan.unit_parts;
    unit_part = team.rank % plan.unit_parts;
    rows_owner = team.rank / plan.unit_parts;
    if (team.barriers) group = team.barriers + 1 + rows_owner;
  }
};

// Rows of a tensor that go through a step together: `ld` apart, or, of those in places of their own, ld apart by place.
// Null for zeros.
template <class E>
struct StepRows {
  E* data = nullptr;
  int64_t ld = 0;
  const int64_t* place = nullptr;
  int64_t place_ld = 0;

  E* row(int64_t r) const { return data ? data + (place ? place[r * place_ld] : r) * ld : nullptr; }
  StepRows from(int64_t r) const {
    if (place) return {data, ld, place + r * place_ld, place_ld};
    return {row(r), ld};
  }
};

// The numbers of rows that go through a step together.
struct RowNumbers {
  int64_t first = 0, apart = 0;
  const int64_t* place = nullptr;

  int64_t operator[](int64_t r) const { return place ? place[first + r * apart] : first + r * apart; }
};

// The rows part, part + parts, part + 2 parts ... of a batch, seen by one direction: step s is the s-th one in its own
// forward order. Taking every parts-th row balances ragged batches, which come sorted by length.
struct Steps {
  const Rows &x_rows, &rows;
  int64_t T, part, parts;
  bool reverse;

  int64_t time(int64_t s) const { return reverse ? T - 1 - s : s; }
  int64_t active(int64_t s) const {
    return s < 0 || s >= T ? 0 : divide_up(larger(0, rows.active[time(s)] - part), parts);
  }
  int64_t first(int64_t s) const { return rows.first[time(s)] + part * rows.stride; }
  int64_t stride() const { return parts * rows.stride; }
  // A row of a direction's in tensors [D, B, ...].
  int64_t of_batch(int64_t d, int64_t B, int64_t j) const { return d * B + part + j * parts; }
  // A row's number, and its place in y and x.
  int64_t number(int64_t s, int64_t j) const { return first(s) + j * stride(); }
  int64_t y_row(int64_t s, int64_t j) const { return y_rows(s, j)[0]; }
  int64_t x_row(int64_t s, int64_t j) const {
    return placed(x_rows, x_rows.first[time(s)] + (part + j * parts) * x_rows.stride);
  }
  // The rows of step s from j on, of a tensor whose rows are `width` apart and lie as those of y or of x.
  template <class E>
  StepRows<E> of_y(E* tensor, int64_t width, int64_t s, int64_t j) const {
    return rows_at(rows, tensor, width, s, j);
  }
  template <class E>
  StepRows<E> of_x(E* tensor, int64_t width, int64_t s, int64_t j) const {
    return rows_at(x_rows, tensor, width, s, j);
  }
  // Of y.
  RowNumbers y_rows(int64_t s, int64_t j) const { return {number(s, j), stride(), rows.place}; }
  // Rows 0 .. begun(s) - 1 of step s also took part in step s - 1, rows 0 .. followed(s) - 1 do in step s + 1.
  int64_t begun(int64_t s) const { return smaller(active(s), active(s - 1)); }
  int64_t followed(int64_t s) const { return smaller(active(s), active(s + 1)); }

 private:
  static int64_t placed(const Rows& rows, int64_t number) { return rows.place ? rows.place[number] : number; }

  template <class E>
  StepRows<E> rows_at(const Rows& in, E* tensor, int64_t width, int64_t s, int64_t j) const {
    if (!tensor) return {};
    const int64_t at = in.first[time(s)] + (part + j * parts) * in.stride, apart = parts * in.stride;
    if (in.place) return {tensor, width, in.place + at, apart};
    return {tensor + at * width, apart * width};
  }
};

// Where the i-th of a cell's `values` saved values lies in a row, for a vector of n units from `unit` on. Those of a
// vector are side by side: H apart, with H a power of two, they and those of the rows beside them would fall into a few
// sets of the cache, and forward took 1.4 times as long at H = 512.
FASTRNN_INLINE int64_t saved_at(int values, int64_t unit, int i, int n) { return unit * values + int64_t(i) * n; }

// Hands out 64-byte aligned pieces of one allocation; with a null base it only counts.
//
// A layer's threads share one workspace, and nobody hands its pieces to them: each walks through the whole layout,
// takes all that there is for anyone, in the same order, and holds on to what is its own. So the layout stands in one
// place, the constructor, where a single walk also measures it.
struct Arena {
  char* base;
  int64_t used = 0;  // bytes

  template <class T>
  T* take(int64_t elements) {
    constexpr int64_t line = 64;
    char* piece = base ? base + used : nullptr;
    const int64_t bytes = elements * int64_t(sizeof(T));
    used += divide_up(bytes, line) * line + kFence;
    if (base) close_to_all(piece + bytes, base + used - (piece + bytes));
    return reinterpret_cast<T*>(piece);
  }
};

// Pieces that `owners` threads or groups of them take one after another, by take(); those of owner `mine`, if it is
// one. Not inlined: a constructor with its loops unrolled and unswitched is three times as large.
template <class F>
FASTRNN_NOINLINE auto take_for_each(int64_t owners, int64_t mine, F&& take) {
  decltype(take()) own{};
  for (int64_t i = 0; i < owners; ++i) {
    const auto pieces = take();
    if (i == mine) own = pieces;
  }
  return own;
}

}  // namespace
}  // namespace fastrnn
