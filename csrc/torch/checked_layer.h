// A layer's sizes and rows, checked: what the kernels read through raw pointers is known to be there.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string_view>

#include "runtime/layer.h"

namespace fastrnn {

CellKind cell_kind(std::string_view name);
Form form_of(const std::optional<at::Tensor>& batch_sizes, bool batch_first);

inline at::IntArrayRef sizes_of(const Shape& shape) { return {shape.size, size_t(shape.dims)}; }

struct Layer {
  LayerOptions options;
  const CellFacts& facts;
  Sizes n{};
  BatchRows batch;
  Shapes<2> state_shapes;
  c10::SmallVector<int64_t, 3> y_shape;

  // `batch_sizes` of a packed form, `stored` the dtype of weight_ih and weight_hh where it is not that of x.
  Layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, const LayerOptions& options,
        const std::optional<at::Tensor>& batch_sizes = std::nullopt,
        std::optional<at::ScalarType> stored = std::nullopt);

  bool empty() const { return n.N == 0; }

 private:
  void set_rows(const at::Tensor& x);
  void set_packed_rows(const at::Tensor& x, at::TensorList state, const at::Tensor& batch_sizes);
  void check(const at::Tensor& x, at::TensorList state, at::TensorList weights, at::ScalarType stored) const;
};

}  // namespace fastrnn
