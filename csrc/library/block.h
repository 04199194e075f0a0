// Memory for kernels, aligned to a line of the cache.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace fastrnn {

constexpr std::align_val_t kLine{64};

struct FreeBlock {
  void operator()(char* block) const { ::operator delete(block, kLine); }
};
using Block = std::unique_ptr<char, FreeBlock>;

inline Block make_block(size_t bytes) { return Block(static_cast<char*>(::operator new(bytes, kLine))); }

}  // namespace fastrnn
