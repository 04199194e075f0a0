#include "torch/allocator.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include "runtime/blocks.h"

namespace fastrnn {
namespace {

constexpr size_t kSmallest = size_t(256) << 10;

class LargeBlocks final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kSmallest) return c10::GetCPUAllocator()->allocate(bytes);
    bytes = block_bytes(bytes);
    void* data = take_block(bytes);
    TORCH_CHECK(data, "fastrnn: out of memory, tried to allocate ", bytes, " bytes");
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, free, c10::Device(c10::DeviceType::CPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void free(void* data) {
    c10::profiledCPUMemoryReporter().Delete(data);
    keep_block(data);
  }
};

}  // namespace

c10::Allocator* large_blocks() {
  static LargeBlocks* allocator = new LargeBlocks;
  return allocator;
}

}  // namespace fastrnn
