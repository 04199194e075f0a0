// Which regime and which split among threads a layer gets.
#pragma once

#include "kernels/arguments.h"
#include "runtime/machine.h"

namespace fastrnn {

// Whether a layer has so few rows that packing its weights would take longer than it saves: forward multiplies them as
// they lie.
bool takes_weights_as_they_lie(const Sizes& sizes);

// Whether the instruction set in use has products of bfloat16 that are faster on this machine than those of float32.
bool multiplies_bfloat16();

// How many of the threads so many layers are worth.
int threads_for(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& sizes, int element_bytes,
                int64_t layers, int threads);

// What a plan is expected to take, in seconds: as far as plans differ, so without the cell, packing and the gradients
// that are products over all rows.
struct Estimate {
  double forward = 0, backward = 0;  // the time loops' products, waiting included
  double copies = 0;                 // adding up the weight gradients of parts of the rows
  double total() const { return forward + backward + copies; }
};
Estimate estimate(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& sizes,
                  int element_bytes, const Plan& plan);

// A function of its arguments alone: the same call gets the same plan.
Plan make_plan(const Machine& machine, const InstructionSet& set, CellKind kind, const Sizes& sizes, int element_bytes,
               int threads);

}  // namespace fastrnn
