// Memory for large tensors, kept for the next one of about the same size. Fresh pages cost 0.4 us per KB, as much as a
// layer's arithmetic where H is small, and a program's other tensors come between two calls of a layer, so that the C
// library has given the pages back to the system by the next.
#pragma once

#include <c10/core/Allocator.h>

namespace fastrnn {

// Small blocks are those of torch's own allocator. At most 128 MB lie idle.
c10::Allocator* large_blocks();

}  // namespace fastrnn
