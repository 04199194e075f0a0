// Fences between the pieces of one allocation, which AddressSanitizer then guards like allocations of their own.
// Without it they take no room and no time.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace fastrnn {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kFence = 64;
inline void close_to_all(const void* p, size_t bytes) { __asan_poison_memory_region(p, bytes); }
inline void open_to_all(const void* p, size_t bytes) { __asan_unpoison_memory_region(p, bytes); }
#else
constexpr size_t kFence = 0;
inline void close_to_all(const void*, size_t) {}
inline void open_to_all(const void*, size_t) {}
#endif

}  // namespace fastrnn
