// A layer's weights as its forward pass reads them: panels of gates, a panel of the projection, biases by sum.
#pragma once

#include "kernels/panels-inl.h"
#include "kernels/share-inl.h"

namespace fastrnn {
namespace {

template <class T, class Q, class Cell>
class ForwardPanels {
  using Gates = typename Cell::Gates;

 public:
  using Groups = ColumnGroups<T, Cell::kUnitVectors>;
  using Outputs = ColumnGroups<T, kTileCols>;

  // `direct`: gates are multiplied as they lie, and have no panels.
  ForwardPanels(const Weights<T>* weights, const Sizes& sizes, bool direct, Arena& arena)
      : weights_(weights), n_(sizes), direct_(direct) {
    for (int64_t d = 0; d < n_.D; ++d) {
      Direction& to = of_[d];
      to.bias = arena.take<Real<T>>(groups_.padded() * Gates::kSums);
      if (weights[d].w_hr) to.projection = arena.take<Q>(outputs_.padded() * whole_depth<Q>(n_.H));
      if (direct) continue;
      to.x = arena.take<Q>(groups_.padded() * Gates::kGates * whole_depth<Q>(n_.I));
      to.h = arena.take<Q>(groups_.padded() * Gates::kGates * whole_depth<Q>(n_.P));
    }
  }

  // A thread's share of all directions.
  void pack(Team team) {
    for_share(team, groups_.count(), [&](int64_t d, int64_t q) { pack_group(d, q); });
    if (!weights_[0].w_hr) return;
    for_share(team, outputs_.count(), [&](int64_t d, int64_t q) {
      pack_gates(projection(d, q), weights_[d].w_hr, 1, n_.P, n_.H, q * Outputs::kWidth, outputs_.vectors(q));
    });
  }

  Real<T>* bias(int64_t d, int64_t q) const { return of_[d].bias + q * Groups::kWidth * Gates::kSums; }
  Q* x(int64_t d, int64_t q) const { return of_[d].x + q * Groups::kWidth * Gates::kGates * whole_depth<Q>(n_.I); }
  Q* h(int64_t d, int64_t q) const { return of_[d].h + q * Groups::kWidth * Gates::kGates * whole_depth<Q>(n_.P); }
  Q* projection(int64_t d, int64_t q) const { return of_[d].projection + q * Outputs::kWidth * whole_depth<Q>(n_.H); }

 private:
  struct Direction {
    Real<T>* bias = nullptr;
    Q *x = nullptr, *h = nullptr, *projection = nullptr;
  };

  // f(direction, group)
  template <class F>
  void for_share(Team team, int64_t count, F&& f) {
    const Range mine = share({0, n_.D * count}, team.rank, team.size);
    for (int64_t i = mine.begin; i < mine.end; ++i) f(i / count, i % count);
  }

  void pack_group(int64_t d, int64_t q) {
    const Weights<T>& w = weights_[d];
    const int64_t unit = q * Groups::kWidth;
    const int vectors = groups_.vectors(q);
    Real<T>* const to = bias(d, q);
    for (int i = 0; i < Gates::kSums * vectors; ++i) store(to + i * kLanes<T>, Vec<T>{});
    for (int g = 0; g < Gates::kGates; ++g) {
      for (int u = 0; u < vectors && w.b_ih; ++u) {
        const int64_t column = unit + u * kLanes<T>;
        const int lanes = valid_lanes<T>(column, n_.H);
        Real<T>* of_x = to + (Gates::x_sum(g) * vectors + u) * kLanes<T>;
        store(of_x, load(of_x) + load(w.b_ih + g * n_.H + column, lanes));
        Real<T>* of_h = to + (Gates::h_sum(g) * vectors + u) * kLanes<T>;
        store(of_h, load(of_h) + load(w.b_hh + g * n_.H + column, lanes));
      }
    }
    if (direct_) return;
    pack_gates(x(d, q), w.w_ih, Gates::kGates, n_.H, n_.I, unit, vectors);
    pack_gates(h(d, q), w.w_hh, Gates::kGates, n_.H, n_.P, unit, vectors);
  }

  const Weights<T>* const weights_;
  const Sizes n_;
  const bool direct_;
  const Groups groups_{n_.H};
  const Outputs outputs_{n_.P};
  Direction of_[2];
};

}  // namespace
}  // namespace fastrnn
