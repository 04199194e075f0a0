// Which regime and which split among threads a layer gets.
#pragma once

#include "kernels/arguments.h"

namespace fastrnn {

// A function of its arguments alone: the same call gets the same plan.
Plan make_plan(const InstructionSet& set, CellKind kind, const Sizes& sizes, int element_bytes, int threads);

}  // namespace fastrnn
