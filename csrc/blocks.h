// Memory for large tensors, kept for the next one of about the same size. Fresh pages cost 0.4 us per KB, as much as a
// layer's arithmetic where H is small, and a program's other tensors come between two calls of a layer, so that the C
// library has given the pages back to the system by the next.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>

namespace fastrnn {

// Small blocks are those of torch's own allocator. At most 128 MB lie idle.
c10::Allocator* large_blocks();

// Asks for large pages under a large new block: a first touch of 64 MB in pages of 4 KB costs 25 ms.
void prefer_large_pages(void* block, size_t bytes);

}  // namespace fastrnn
