#include "runtime/blocks.h"

#include <mutex>
#include <new>

#include "runtime/pages.h"

namespace fastrnn {
namespace {

constexpr size_t kMostIdle = size_t(128) << 20;
constexpr size_t kPage = size_t(4) << 10;

// Lies before the data, in a line of its own.
struct alignas(64) Header {
  size_t bytes;  // of the data
  Header* next;
};

size_t alignment_of(size_t bytes) { return bytes + sizeof(Header) < kHugePage ? alignof(Header) : kHugePage; }

void give_back(Header* block) { ::operator delete(block, std::align_val_t(alignment_of(block->bytes))); }

// Blocks that nobody uses, the latest first. A thread that finds another one at work here goes to the system instead of
// waiting: so nothing can hang, not even in a child that was forked meanwhile.
class Idle {
 public:
  Header* take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    for (Header** at = &first_; *at; at = &(*at)->next) {
      Header* block = *at;
      // Of a quarter more at most, so that a small tensor does not sit on a large block.
      if (block->bytes < bytes || block->bytes > bytes + bytes / 4) continue;
      *at = block->next;
      bytes_ -= block->bytes;
      return block;
    }
    return nullptr;
  }

  void keep(Header* block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || block->bytes > kMostIdle) return give_back(block);
    block->next = first_;
    first_ = block;
    bytes_ += block->bytes;
    shrink(kMostIdle);
  }

  void give_back_all() {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock) shrink(0);
  }

 private:
  // Gives back the oldest. There are few, for all are large.
  void shrink(size_t most) {
    while (bytes_ > most) {
      Header** last = &first_;
      while ((*last)->next) last = &(*last)->next;
      bytes_ -= (*last)->bytes;
      give_back(*last);
      *last = nullptr;
    }
  }

  std::mutex mutex_;
  Header* first_ = nullptr;
  size_t bytes_ = 0;
};

// Never destroyed: tensors may outlive every other static object.
Idle& idle() {
  static Idle* blocks = new Idle;
  return *blocks;
}

Header* take_new(size_t bytes) {
  const auto align = std::align_val_t(alignment_of(bytes));
  void* block = ::operator new(sizeof(Header) + bytes, align, std::nothrow);
  if (!block) {
    idle().give_back_all();
    block = ::operator new(sizeof(Header) + bytes, align, std::nothrow);
  }
  if (!block) return nullptr;
  prefer_large_pages(block, sizeof(Header) + bytes);
  return new (block) Header{bytes, nullptr};
}

}  // namespace

size_t block_bytes(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void* take_block(size_t bytes) {
  bytes = block_bytes(bytes);
  Header* block = idle().take(bytes);
  if (!block) block = take_new(bytes);
  return block ? block + 1 : nullptr;
}

void keep_block(void* data) { idle().keep(static_cast<Header*>(data) - 1); }

}  // namespace fastrnn
