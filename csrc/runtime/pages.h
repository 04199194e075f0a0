// Large pages under large memory.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastrnn {

constexpr size_t kHugePage = size_t(2) << 20;

// Asks for large pages under a large new block: a first touch of 64 MB in pages of 4 KB costs 25 ms.
inline void prefer_large_pages(void* block, size_t bytes) {
#ifdef __linux__
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(block) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(block) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: failing is no harm
#else
  (void)block, (void)bytes;
#endif
}

}  // namespace fastrnn
