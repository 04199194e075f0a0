// Layer normalisation (Ba et al., 2016) of what a row holds over all units: of the products with h, gates that are
// added together, and of the cell state on its way to h. Means and variances are those of a row's own values, taken one
// after another, so that they depend neither on the rows beside it nor on the number of threads.
#pragma once

#include "kernels/cells.h"
#include "kernels/share-inl.h"

namespace fastrnn {
namespace {

// What a row's saved values are, for each unit: those of the cell and of zoneout, and behind these, of a normalised
// layer, the products with h.
struct SavedValues {
  int own, all;
};

template <class Cell>
SavedValues saved_values(const Zoneout& zoneout, bool normalised) {
  const int own = Cell::kSaved + (zoneout ? kSavedByZoneout<Cell> : 0);
  return {own, own + (normalised ? Cell::Gates::kGates : 0)};
}

// The gates whose products with h are normalised together: all that are added to those with x, and each other one.
template <class Gates>
struct NormGroups {
  static constexpr int kApart = Gates::kSums - Gates::kGates, kCount = 1 + kApart;
  static constexpr int first(int group) { return group == 0 ? 0 : Gates::kGates - kApart + group - 1; }
  static constexpr int size(int group) { return group == 0 ? Gates::kGates - kApart : 1; }
  static constexpr int of(int gate) { return gate < size(0) ? 0 : gate - size(0) + 1; }
};

constexpr double kNormEpsilon = 1e-5;  // added to variances, as in torch.nn.LayerNorm

// A value normalised is (value - mean) * scale.
template <class R>
struct Moments {
  R mean, scale;
};

// The means over a row of the gradients of its normalised values, and of these times the values.
template <class R>
struct GradientMeans {
  R plain, with_value;
};

template <class T>
FASTRNN_INLINE Vec<T> normalised(Vec<T> value, Moments<Real<T>> by) {
  return (value - by.mean) * by.scale;
}
// The gradient of a value, from that of it normalised.
template <class T>
FASTRNN_INLINE Vec<T> through_norm(Vec<T> gradient, Vec<T> normal, GradientMeans<Real<T>> means, Real<T> scale) {
  return scale * (gradient - means.plain - normal * means.with_value);
}

template <class T>
FASTRNN_INLINE void add_to(T* sums, Vec<T> values, int n) {
  store(sums, load(sums, n) + values, n);
}

// The mean of f(unit, i, n) over the units of a row and i < kCount.
template <class T, int kCount, class F>
FASTRNN_INLINE Real<T> mean_over_units(int64_t H, F&& f) {
  Vec<T> sums[kCount] = {};
  for (int64_t unit = 0; unit < H; unit += kLanes<T>) {
    const int n = valid_lanes<T>(unit, H);
    FASTRNN_UNROLL
    for (int i = 0; i < kCount; ++i) {
      Vec<T> value = f(unit, i, n);
      if (n < kLanes<T>) {  // what lies past H is no value
        Real<T> lanes[kLanes<T>];
        store(lanes, value);
        value = load(lanes, n);
      }
      sums[i] += value;
    }
  }
  FASTRNN_UNROLL
  for (int i = 1; i < kCount; ++i) sums[0] += sums[i];
  Real<T> sum = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) sum += sums[0][lane];
  return sum / Real<T>(kCount * H);
}

// Of each unit's values in a row that lies as saved_at() says, those from the `first` on.
template <class T>
struct RowValues {
  const Real<T>* row;
  int all, first;

  FASTRNN_INLINE Vec<T> operator()(int64_t unit, int i, int n) const {
    return load(row + saved_at(all, unit, first + i, n), n);
  }
};

template <class T, int kCount>
FASTRNN_NOINLINE Moments<Real<T>> moments(RowValues<T> values, int64_t H) {
  const Real<T> mean = mean_over_units<T, kCount>(H, values);
  const Real<T> variance = mean_over_units<T, kCount>(H, [&](int64_t unit, int i, int n) {
    const Vec<T> from_mean = values(unit, i, n) - mean;
    return from_mean * from_mean;
  });
  return {mean, Real<T>(1 / __builtin_sqrt(double(variance) + kNormEpsilon))};
}

// `gradients` of the values normalised.
template <class T, int kCount>
FASTRNN_NOINLINE GradientMeans<Real<T>> gradient_means(RowValues<T> gradients, RowValues<T> values,
                                                       Moments<Real<T>> of_values, int64_t H) {
  const Real<T> plain = mean_over_units<T, kCount>(H, gradients);
  const Real<T> with_value = mean_over_units<T, kCount>(H, [&](int64_t unit, int i, int n) {
    return gradients(unit, i, n) * normalised<T>(values(unit, i, n), of_values);
  });
  return {plain, with_value};
}

// f.operator()<group>() for all groups of gates.
template <class Gates, int group = 0, class F>
FASTRNN_INLINE void for_norm_groups(F&& f) {
  f.template operator()<group>();
  if constexpr (group + 1 < NormGroups<Gates>::kCount) for_norm_groups<Gates, group + 1>(f);
}

// The gradients of what is normalised, of rows that go back through a step together, and their means.
template <class T>
struct NormGradientRows {
  StepRows<Real<T>> dgx;     // of the gates of a direction, null where not asked for
  Real<T>*dnormal, *dstate;  // of the normalised products, which lie as if they were saved values, and cell state
  int64_t dnormal_ld, dstate_ld;
  const GradientMeans<Real<T>>*product_means, *state_means;  // as moments
  Real<T>*gain, *state_gain, *state_bias;                    // [G*H], [H], [H]: add up
};

// What rows that go through a step together are normalised by: their moments, [rows] of groups, and of the cell state.
template <class T>
struct NormRows {
  const T *gain, *bias, *state_gain, *state_bias;  // biases or null
  const Moments<Real<T>>*products, *state;

  explicit operator bool() const { return gain; }

  template <class Gates>
  FASTRNN_INLINE Vec<T> product(const Real<T>* saved, SavedValues values, int64_t r, int gate, int64_t column,
                                int n) const {
    constexpr int kGroups = NormGroups<Gates>::kCount;
    return normalised<T>(load(saved + saved_at(values.all, column, values.own + gate, n), n),
                         products[r * kGroups + NormGroups<Gates>::of(gate)]);
  }
  // The gradient that comes to the cell state, whose values these are, by way of h.
  FASTRNN_INLINE Vec<T> to_state(const NormGradientRows<T>& of, const Real<T>* cell_state, int64_t r, int64_t column,
                                 int n) const {
    return through_norm<T>(load(of.dstate + r * of.dstate_ld + column, n), normalised<T>(load(cell_state, n), state[r]),
                           of.state_means[r], state[r].scale);
  }
  // The cell state as h is formed from it.
  FASTRNN_INLINE Vec<T> output(Vec<T> normal, int64_t column, int n) const {
    const Vec<T> scaled = normal * load(state_gain + column, n);
    return state_bias ? scaled + load(state_bias + column, n) : scaled;
  }
};

// The sums of the rows of a block, whose products with h are among their saved values, those with x in `gx`.
template <class T, class Gates>
FASTRNN_NOINLINE void normalised_sums(Real<T>* sums, int rows, int vectors, int64_t unit, int64_t H,
                                      StepRows<const T> gx, const Real<T>* saved, int64_t saved_ld, SavedValues values,
                                      const NormRows<T>& norm) {
  for (int r = 0; r < rows; ++r) {
    const T* const x = gx.row(r);
    for (int u = 0; u < vectors; ++u) {
      const int64_t column = unit + u * kLanes<T>;
      const int n = valid_lanes<T>(column, H);
      FASTRNN_UNROLL
      for (int g = 0; g < Gates::kGates; ++g) {
        const auto sum = [&](int number) { return sums + ((r * Gates::kSums + number) * vectors + u) * kLanes<T>; };
        Vec<T> of_h = norm.template product<Gates>(saved + r * saved_ld, values, r, g, column, n);
        of_h *= load(norm.gain + g * H + column, n);
        if (norm.bias) of_h += load(norm.bias + g * H + column, n);
        const Vec<T> of_x = load(x + g * H + column, n);
        if (Gates::x_sum(g) == Gates::h_sum(g))
          store(sum(Gates::h_sum(g)), of_x + of_h);
        else
          store(sum(Gates::x_sum(g)), of_x), store(sum(Gates::h_sum(g)), of_h);
      }
    }
  }
}

}  // namespace
}  // namespace fastrnn
