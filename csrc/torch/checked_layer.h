// A layer's sizes and rows, checked: what the kernels read through raw pointers is known to be there.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/layer.h"

namespace fastrnn {

CellKind cell_kind(std::string_view name);

inline at::IntArrayRef sizes_of(const Shape& shape) { return {shape.size, size_t(shape.dims)}; }

using Extent = c10::SmallVector<int64_t, 4>;

// What disturbs the states between steps, as fastrnn/spec/noise.py describes it.
struct Noise {
  at::Tensor h_mask;  // undefined for ones
  double zoneout_h = 0, zoneout_c = 0;
  at::Tensor zoneout_seed;

  bool zoneout() const { return zoneout_h > 0 || zoneout_c > 0; }
  explicit operator bool() const { return h_mask.defined() || zoneout(); }
};

struct Layer {
  LayerOptions options;
  const CellFacts& facts;
  Sizes n{};
  BatchRows batch;
  // Independent layers of these sizes: then every tensor has one dimension more, the first.
  int64_t members = 1;
  bool has_members = false;
  // x lies in memory sequence by sequence: [B, T, I], and else [T, B, I].
  bool x_by_sequence = false;

  // `batch_sizes` of a packed form, `stored` the dtype of weight_ih and weight_hh where it is not that of x.
  Layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options,
        const at::Tensor& batch_sizes = {}, std::optional<at::ScalarType> stored = std::nullopt);

  // A batch of pieces of the rows of another, the longest first: [batch_sizes] of them at each step, in these places of
  // its x and y, step by step or as x lies in memory. Sequence tensors are those of the other.
  Layer(const Layer& whole, const std::vector<int64_t>& batch_sizes, std::vector<int64_t> of_x,
        std::vector<int64_t> of_y);

  bool empty() const { return n.N == 0; }
  // Of a sequence tensor.
  int64_t sequence_rows() const { return pieces_ ? steps_ * batch_ : n.N; }

  // Shapes with the members in front.
  Extent extent(at::IntArrayRef of_member) const;
  Extent extent(const Shape& of_member) const { return extent(sizes_of(of_member)); }
  // Of a sequence tensor as it lies in memory, step by step.
  Extent step_extent(int64_t width) const;
  Extent state_extent(int state) const {
    return extent(state_shapes_[state]);
  }  // [D, B, width], [B, width] of one step

  // Of a row of `saved`.
  int64_t saved_width(const Noise& noise) const {
    return saved_values(facts, noise.zoneout(), options.layer_norm) * n.H;
  }
  // The kernels form no products with x whose gates are given.
  Sizes kernel_sizes() const {
    Sizes sizes = n;
    if (options.layer_norm) sizes.I = 0;
    return sizes;
  }

  // Raises what does not fit the layer.
  void check_noise(const Noise& noise, const at::Tensor& x) const;

  // Of the cell state after every step.
  Extent every_state_extent() const;

  // A batch-first layer's [B, T, ...] as [T, B, ...] and the other way; any other layer's as it is.
  at::Tensor swapped(const at::Tensor& t) const;

 private:
  Shapes<2> state_shapes_{};
  bool pieces_ = false;
  int64_t steps_ = 0, batch_ = 0;  // of the whole rows, of which these are pieces

  void set_rows(const at::Tensor& x);
  void set_packed_rows(const at::Tensor& x, at::TensorList state, const at::Tensor& batch_sizes);
  void check(const at::Tensor& x, at::TensorList state, at::TensorList weights, at::ScalarType stored) const;
};

using Tensors = std::vector<at::Tensor>;
// The initial states of a call: none, or all that the cell has.
using States = c10::SmallVector<at::Tensor, 2>;
States given(const at::Tensor& h_0, const at::Tensor& c_0);

inline at::Tensor or_undefined(const std::optional<at::Tensor>& t) { return t ? *t : at::Tensor(); }
inline std::optional<at::Tensor> if_defined(const at::Tensor& t) {
  return t.defined() ? std::optional(t) : std::nullopt;
}

// The arguments that the operators share, as schemas.inc describes them; tensors are undefined where not given.
struct Call {
  at::Tensor x, h_0, c_0;
  Tensors weights;
  at::Tensor batch_sizes;
  std::string cell;
  int64_t directions = 1;
  bool has_bias = true, batch_first = false;
  at::Tensor lengths, reset;
  States reset_state;
  Noise noise;
  bool layer_norm = false;

  States state() const { return given(h_0, c_0); }
  std::optional<at::Tensor> reset_at(size_t state) const {
    return state < reset_state.size() ? std::optional(reset_state[state]) : std::nullopt;
  }
  // Rows end at lengths of their own, or begin anew.
  bool segmented() const { return lengths.defined() || reset.defined() || !reset_state.empty(); }
  LayerOptions options() const;
};

}  // namespace fastrnn
