// The memory in which kernels pack weights and keep what is between their steps.
#pragma once

#include <cstddef>
#include <new>

#include "kernels/fence.h"
#include "runtime/pages.h"

namespace fastrnn {

// Memory that a thread keeps between its calls: fresh pages cost 0.4 us per KB, more than the work of a short layer.
class Workspace {
 public:
  void* at_least(size_t bytes) {
    if (bytes > size_) {
      free();
      data_ = ::operator new(bytes, std::align_val_t(kAlign));
      size_ = bytes;
      prefer_large_pages(data_, bytes);
    }
    open_to_all(data_, size_);
    return data_;
  }
  void give_back_large() {
    if (size_ > kMostIdle) free();
  }
  ~Workspace() { free(); }

 private:
  static constexpr size_t kAlign = 64, kMostIdle = size_t(64) << 20;

  void free() {
    ::operator delete(data_, std::align_val_t(kAlign));
    data_ = nullptr, size_ = 0;
  }

  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fastrnn
