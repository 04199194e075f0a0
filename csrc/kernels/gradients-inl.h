// What is formed from the gate gradients of a chunk of rows at once: weight, bias and input gradients. T and Q as in
// forward.
#pragma once

#include "kernels/arguments.h"
#include "kernels/products-inl.h"
#include "kernels/share-inl.h"

namespace fastrnn {
namespace {

// A weight [rows, columns] as the right operand of plain products: packed by groups of columns, or read as it lies.
template <class T, class Q>
struct RightWeight {
  using Groups = ColumnGroups<T, kTileCols>;

  const T* weight = nullptr;
  int segments = 0;  // of its rows, each packed by whole pairs: the gates
  int64_t rows = 0;  // of a segment
  Groups groups{0};
  bool direct = false;
  Q* packed = nullptr;

  RightWeight() = default;
  RightWeight(const T* weight_, int segments_, int64_t rows_, int64_t columns, bool direct_, Arena& arena)
      : weight(weight_), segments(segments_), rows(rows_), groups{columns}, direct(direct_) {
    packed = arena.take<Q>(groups.padded() * packed_rows());
  }

  int64_t packed_rows() const { return segments * whole_depth<Q>(rows); }

  // Where nothing need be packed, a group of whole vectors stays; only a narrower last one is copied.
  bool in_place(int64_t q) const {
    return !kRounds<T, Q> && direct && q * Groups::kWidth + groups.vectors(q) * kLanes<T> <= groups.columns;
  }

  // The team member's share.
  void pack(Team team) const {
    const Range mine = share({0, groups.count()}, team.rank, team.size);
    for (int64_t q = mine.begin; q < mine.end; ++q) {
      if (in_place(q)) continue;
      const int cols = groups.vectors(q);
      Q* to = packed + q * Groups::kWidth * packed_rows();
      for (int s = 0; s < segments; ++s, to += whole_depth<Q>(rows) * cols * kLanes<T>) {
        const auto row = [&](int64_t k) { return weight + (s * rows + k) * groups.columns; };
        pack_rows(to, row, rows, q * Groups::kWidth, cols, groups.columns);
      }
    }
  }

  Panel<Q> panel(int64_t q) const {
    if constexpr (!kRounds<T, Q>) {
      if (in_place(q)) return {weight + q * Groups::kWidth, groups.columns};
    }
    return {packed + q * Groups::kWidth * packed_rows(), groups.vectors(q) * kLanes<T>};
  }
};

// Rows whose gate gradients are ready. What follows from their steps is listed per row.
template <class T, class Q>
struct Chunk {
  int64_t rows;
  bool first;      // overwrite the gradients instead of adding to them
  const Q* dsums;  // [rows, dsums_ld]
  int64_t dsums_ld;
  const Q *dh, *h;  // with a projection: gradient of the outputs [rows, dh_ld], what was projected [rows, H]
  int64_t dh_ld;
  const int64_t* numbers;    // of each row in the sequence tensors
  const T* const* inputs;    // x of each row
  const T* const* previous;  // the hidden state before each row, null for zeros
};

// One thread's part: the gradients of some units' rows of every gate, and of the inputs of some rows of the chunk.
template <class T, class Q, class Gates>
class ChunkGradients {
  using Groups = ColumnGroups<T, kTileCols>;

 public:
  ChunkGradients() = default;
  ChunkGradients(const Sizes& sizes, bool matrix, int64_t part, int64_t parts)
      : n_(sizes), matrix_(matrix), part_(part), parts_(parts) {}

  // Room for the packed operands of a weight gradient over at most `rows` rows.
  void take_buffers(int64_t rows, Arena& arena) {
    const int64_t tiles = divide_up(divide_up(larger(n_.H, n_.P), left_rows()), parts_);
    left_ = arena.take<Q>(whole_depth<Q>(rows) * Gates::kSums * tiles * left_rows());
    right_ = arena.take<Q>(whole_depth<Q>(rows) * Groups::kWidth);
  }

  void add_weights(const Chunk<T, Q>& chunk, const WeightGradients<Real<T>>& w) const {
    const Range units = own_rows(n_.H);
    // Rounded, they would be off by more than their sums.
    if (w.b_ih && !kRounds<T, Q>) add_bias(chunk, w.b_ih, Gates::x_sum, units);
    if (w.b_hh && !kRounds<T, Q>) add_bias(chunk, w.b_hh, Gates::h_sum, units);
    const auto input = [&](int64_t k) { return chunk.inputs[k]; };
    const auto previous = [&](int64_t k) { return chunk.previous[k]; };
    if (w.w_ih || w.w_hh) pack_left<Gates::kSums>(chunk.dsums, chunk.dsums_ld, n_.H, chunk.rows, units);
    if (w.w_ih) add_outer(chunk, w.w_ih, n_.I, input, n_.H, Gates::kGates, Gates::x_sum, units);
    if (w.w_hh) add_outer(chunk, w.w_hh, n_.P, previous, n_.H, Gates::kGates, Gates::h_sum, units);
    if (w.w_hr) {
      const auto projected = [&](int64_t k) { return chunk.h + k * n_.H; };
      const Range outputs = own_rows(n_.P);
      pack_left<1>(chunk.dh, chunk.dh_ld, n_.P, chunk.rows, outputs);
      add_outer(chunk, w.w_hr, n_.H, projected, n_.P, 1, [](int) { return 0; }, outputs);
    }
  }

  // dx = dgx W_ih.
  void write_inputs(const Chunk<T, Q>& chunk, const RightWeight<T, Q>& w_ih, Real<T>* dx) const {
    int64_t segment[Gates::kGates];
    for (int g = 0; g < Gates::kGates; ++g) segment[g] = Gates::x_sum(g) * n_.H;
    for (int64_t q = 0; q < w_ih.groups.count(); ++q) {
      const Range own = share({0, chunk.rows}, part_, parts_);
      for_row_blocks(rows_at_once<Q>(matrix_, kTileRows), own, [&](int64_t row, int count) {
        alignas(64) Real<T> out[kMostRows<Q> * kTileCols * kLanes<T>];
        const int cols = w_ih.groups.vectors(q);
        plain_product<Q>(matrix_, out, count, cols,
                         {chunk.dsums + row * chunk.dsums_ld, chunk.dsums_ld, segment, Gates::kGates}, w_ih.panel(q),
                         n_.H, Nothing());
        for (int r = 0; r < count; ++r)
          store_tile(dx + chunk.numbers[row + r] * n_.I, out + r * cols * kLanes<T>, 1, q, cols, w_ih.groups, true);
      });
    }
  }

 private:
  // The thread's share of the `height` rows of each gate of a weight, in whole tiles.
  Range own_rows(int64_t height) const {
    const Range tiles = share({0, divide_up(height, left_rows())}, part_, parts_);
    return {smaller(tiles.begin * left_rows(), height), smaller(tiles.end * left_rows(), height)};
  }

  // Rows of a weight that are one block of the packed left operand.
  int64_t left_rows() const { return kMatrix<Q> && matrix_ ? 16 : kTileRows; }

  int64_t left_size(Range columns, int64_t rows) const {
    const int64_t depth = kMatrix<Q> && matrix_ ? whole_depth<Q>(rows) : whole_pairs<Q>(rows);
    return divide_up(columns.size(), left_rows()) * left_rows() * depth;
  }

  template <int kSums>
  void pack_left(const Q* src, int64_t ld, int64_t width, int64_t rows, Range columns) const {
    for (int a = 0; a < kSums; ++a) {
      Q* const to = left_ + a * left_size(columns, rows);
      if constexpr (kMatrix<Q>) {
        if (matrix_) {
          pack_column_tiles(to, src + a * width, ld, rows, columns);
          continue;
        }
      }
      pack_columns(to, src + a * width, ld, rows, columns);
    }
  }

  // w[gate * height + columns] (+)= left^T right, where right(k) is the k-th row of the chunk, null for zeros.
  template <class Row, class SumOf>
  void add_outer(const Chunk<T, Q>& chunk, Real<T>* w, int64_t width, Row right, int64_t height, int gates,
                 SumOf sum_of, Range columns) const {
    const Groups groups{width};
    const int64_t start = 0;
    for (int64_t q = 0; q < groups.count(); ++q) {
      const int cols = groups.vectors(q);
      pack_rows(right_, right, chunk.rows, q * Groups::kWidth, cols, width);
      if constexpr (kMatrix<Q>) {
        if (matrix_) {
          add_outer_tiles(chunk, w, width, q * Groups::kWidth, cols, height, gates, sum_of, columns);
          continue;
        }
      }
      for (int gate = 0; gate < gates; ++gate) {
        const Q* left = left_ + sum_of(gate) * left_size(columns, chunk.rows);
        for (int64_t m = columns.begin; m < columns.end;
             m += kTileRows, left += kTileRows * whole_pairs<Q>(chunk.rows)) {
          alignas(64) Real<T> out[kTileRows * kTileCols * kLanes<T>];
          with_constant<kTileCols>(cols, [&]<int kCols>() {
            product_tile<Q, kCols, kTileRows, kTileRows>(out, {left, kPair<Q>, &start, 1}, {right_, cols * kLanes<T>},
                                                         chunk.rows);
          });
          const int valid = int(smaller(kTileRows, columns.end - m));
          store_tile(w + (gate * height + m) * width, out, valid, q, cols, groups, chunk.first);
        }
      }
    }
  }

#if defined(FASTRNN_MATRIX)
  // add_outer for a group of columns on the matrix unit.
  template <class SumOf>
  void add_outer_tiles(const Chunk<T, Q>& chunk, Real<T>* w, int64_t width, int64_t column, int cols, int64_t height,
                       int gates, SumOf sum_of, Range columns) const {
    for (int c = 0; c < cols; c += kOuterCols) {
      const Panel<Q> right{right_ + c * kPair<Q> * kLanes<T>, cols * kLanes<T>};
      for (int gate = 0; gate < gates; ++gate) {
        const Q* left = left_ + sum_of(gate) * left_size(columns, chunk.rows);
        for (int64_t m = columns.begin; m < columns.end;
             m += kMostRows<Q>, left += kMostRows<Q> * whole_depth<Q>(chunk.rows)) {
          const GradientBlock to{w + (gate * height + m) * width, width, column + c * kLanes<T>,
                                 int(smaller(kMostRows<Q>, columns.end - m)), chunk.first};
          matrix_outer(to, int(smaller(kOuterCols, cols - c)), left, right, chunk.rows);
        }
      }
    }
  }
#endif

  static void store_tile(Real<T>* w, const Real<T>* tile, int rows, int64_t q, int cols, const Groups& groups,
                         bool overwrite) {
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) {
        const int64_t column = q * Groups::kWidth + c * kLanes<T>;
        const int n = valid_lanes<T>(column, groups.columns);
        Real<T>* at = w + r * groups.columns + column;
        const Vec<T> v = load(tile + (r * cols + c) * kLanes<T>);
        store(at, overwrite ? v : load(at, n) + v, n);
      }
    }
  }

  template <class SumOf>
  void add_bias(const Chunk<T, Q>& chunk, Real<T>* b, SumOf sum_of, Range columns) const {
    for (int gate = 0; gate < Gates::kGates; ++gate) {
      for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) {
        const int n = valid_lanes<T>(c, columns.end);
        const Q* src = chunk.dsums + sum_of(gate) * n_.H + c;
        // Several short sums are more accurate than a long one, and faster.
        constexpr int parts = 8;
        Vec<T> v[parts] = {};
        for (int64_t k = 0; k < chunk.rows; k += parts) {
          FASTRNN_UNROLL
          for (int i = 0; i < parts; ++i)
            if (k + i < chunk.rows) v[i] += load(src + (k + i) * chunk.dsums_ld, n);
        }
        const Vec<T> sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
        Real<T>* at = b + gate * n_.H + c;
        store(at, chunk.first ? sum : load(at, n) + sum, n);
      }
    }
  }

  Sizes n_{};
  bool matrix_ = false;
  int64_t part_ = 0, parts_ = 1;
  Q *left_ = nullptr, *right_ = nullptr;
};

}  // namespace
}  // namespace fastrnn
