// Large blocks of memory, held for the next use of about the same size. Fresh pages cost 0.4 us per KB, as much as a
// layer's arithmetic where H is small, and a program's other data come between two calls of a layer, so that the C
// library has given the pages back to the system by the next.
#pragma once

#include <cstddef>

namespace fastrnn {

// Aligned to 64 bytes; null where the system has no memory left.
void* take_block(size_t bytes);
// What a block for so many bytes has: whole pages.
size_t block_bytes(size_t bytes);
// Ends the use of a block. At most 128 MB lie idle.
void keep_block(void* block);

}  // namespace fastrnn
