// layer_forward under autocast, by the rule of the Python package: all tensors but those in float64 take its dtype.
//
// The package casts before it calls, from Python. A traced or a scripted program relies on this.
#pragma once

#include "torch/operators.h"

namespace fastrnn {

decltype(layer_forward) layer_forward_autocast;

}  // namespace fastrnn
