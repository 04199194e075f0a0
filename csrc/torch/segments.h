// Batches whose rows end at lengths of their own or begin anew at some steps: every segment of a row, from one
// beginning to the next, is a row of its own to the kernels.
//
// Segments do not depend on one another, so they run side by side: however many there are, a batch takes no more steps
// than its longest segment, and a step has as many rows as there are segments that long.
#pragma once

#include <functional>

#include "torch/operators.h"

namespace fastrnn {

// Forward of the segments as rows, from their initial states, with the mask of the rows that they belong to.
using SegmentsForward = std::function<Output(const Layer& segments, at::TensorList initial, const Noise& noise)>;

// `layer` is the call's.
Output segmented_forward(const Layer& layer, const Call& call, const SegmentsForward& run);
Tensors segmented_backward(const Layer& layer, const Call& call, const Backward& given);

}  // namespace fastrnn
