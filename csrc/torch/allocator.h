// Memory for tensors, by torch's interface: large ones lie in the blocks of runtime/blocks.h.
#pragma once

#include <c10/core/Allocator.h>

namespace fastrnn {

// Small blocks are those of torch's own allocator.
c10::Allocator* large_blocks();

}  // namespace fastrnn
