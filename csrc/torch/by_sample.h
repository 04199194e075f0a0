// Gradients of the weights, one for each sample of a batch: products over the rows of a sample, all steps at once.
#pragma once

#include <ATen/ATen.h>

#include "torch/checked_layer.h"

namespace fastrnn {

// Memory for RowGradients of all members.
struct ByRow {
  at::Tensor dsums, dh, h;
};

ByRow allocate_by_row(const Layer& layer, at::ScalarType type);

// The gradient of weights[number] [samples, ...], the members in front. Row b of a batch belongs to sample b % samples.
at::Tensor of_weight_by_sample(const Layer& layer, const ByRow& by_row, const at::Tensor& x, at::TensorList state,
                               const at::Tensor& y, const at::Tensor& h_mask, int64_t samples, int64_t number);

}  // namespace fastrnn
