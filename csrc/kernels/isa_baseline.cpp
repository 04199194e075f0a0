// What the compiler targets unasked: SSE2 on x86-64, NEON on 64-bit Arm, and scalars in vector clothes elsewhere.
#include "kernels/arguments.h"

#define FASTRNN_VECTOR_BYTES 16
#include "kernels/table-inl.h"

namespace fastrnn {
extern constinit const InstructionSet kBaseline;
constinit const InstructionSet kBaseline = instruction_set("baseline");
}  // namespace fastrnn
