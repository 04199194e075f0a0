// Which regime and which split among threads a layer gets.
#pragma once

#include "kernels/arguments.h"

namespace fastrnn {

// How many of the threads so many layers are worth.
int threads_for(const InstructionSet& set, CellKind kind, const Sizes& sizes, int element_bytes, int64_t layers,
                int threads);

// A function of its arguments alone: the same call gets the same plan.
Plan make_plan(const InstructionSet& set, CellKind kind, const Sizes& sizes, int element_bytes, int threads);

}  // namespace fastrnn
