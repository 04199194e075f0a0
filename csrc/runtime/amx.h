// Intel's matrix unit.
#pragma once

namespace fastrnn {

// Whether the processor has it for bfloat16 and int8, and the system lets this process use it; it is asked once, and
// children that are forked inherit its permission. The system refuses where a signal stack is too small for what it
// would have to save there.
bool amx_is_usable();

}  // namespace fastrnn
