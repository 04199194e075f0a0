// Remembers the panels of frozen weights, so that they are packed once and not at every call.
#pragma once

#include <ATen/ATen.h>

#include <functional>

#include "kernels/arguments.h"

namespace fastrnn {

// What make() gives, or gave when the same tensors were asked for with the same kernels and cell, and have not been
// written to since. When panels are packed, those whose tensors are gone are forgotten. Tensors that do not count their
// versions, which are those made in inference mode, are not remembered.
at::Tensor remembered_panels(at::TensorList weights, const void* kernels, CellKind kind, int64_t directions,
                             const std::function<at::Tensor()>& make);

}  // namespace fastrnn
