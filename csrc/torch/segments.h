// Batches whose rows end at lengths of their own or begin anew at some steps, by way of packed batches: there every
// segment of a row, from one beginning to the next, is a row.
//
// Segments do not depend on one another, so they run side by side: however many there are, a batch takes no more steps
// than its longest segment, and a step has as many rows as there are segments that long. It costs a copy of the inputs
// and of the outputs.
#pragma once

#include <functional>

#include "torch/operators.h"

namespace fastrnn {

// A forward of the packed call, which writes what it is given to write.
using PackedForward = std::function<Output(const Call& packed, at::Tensor& saved)>;

// The call by way of `run`; `layer` is the call's. `saved` is as long as that of a batch without segments.
Output segmented_forward(const Layer& layer, const Call& call, at::Tensor& saved, bool every_state,
                         const PackedForward& run);
// By way of backward.
Tensors segmented_backward(const Call& call, const Backward& given);

}  // namespace fastrnn
