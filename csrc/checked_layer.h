// A layer's sizes and rows, checked: what the kernels read through raw pointers is known to be there.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layer.h"

namespace fastrnn {

// The cells that are compiled in, by the names of fastrnn/spec.py.
std::vector<std::string> cell_names();
CellKind cell_kind(std::string_view name);
CellFacts cell_facts(std::string_view name);

// How the rows of a layer lie in x: [T, B, I], [B, T, I], packed [N, I], or one step [B, I] with states [B, P], [B, H].
enum class Form { kTimeFirst, kBatchFirst, kPacked, kOneStep };
Form form_of(const std::optional<at::Tensor>& batch_sizes, bool batch_first);

struct Layer {
  CellKind kind;
  CellFacts facts;
  Sizes n{};
  int64_t per_direction;
  bool has_bias, projected, one_step;
  c10::SmallVector<int64_t, 16> first, active;
  int64_t row_stride = 1;
  c10::SmallVector<int64_t, 3> y_shape, h_shape, memory_shape;

  // `stored` is the dtype of weight_ih and weight_hh, where it is not that of x.
  Layer(const at::Tensor& x, at::TensorList state, at::TensorList weights, Form form,
        const std::optional<at::Tensor>& batch_sizes, std::string_view cell, int64_t directions, bool has_bias,
        std::optional<at::ScalarType> stored = std::nullopt);

  Rows rows() const { return {first.data(), active.data(), row_stride}; }
  bool empty() const { return n.N == 0; }

 private:
  void set_rows(const at::Tensor& x, Form form);
  void set_packed_rows(const at::Tensor& x, at::TensorList state, const at::Tensor& batch_sizes);
  void check(const at::Tensor& x, at::TensorList state, at::TensorList weights, at::ScalarType stored) const;
};

}  // namespace fastrnn
