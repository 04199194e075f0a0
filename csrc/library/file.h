// A file in the format safetensors, in memory, and its tensors, checked when they are asked for.
#pragma once

#include <set>
#include <string>

#include "kernels/arguments.h"
#include "library/block.h"
#include "library/header.h"

namespace fastrnn {

class File {
 public:
  // These throw Failure.
  static File read(const char* path);
  static File of_memory(const void* bytes, size_t size);

  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  bool has(const std::string& name) const { return header_.tensors.count(name) > 0; }

  // Throw Failure where there is no such tensor, or it has another type or shape. No size is 0.
  const std::string& type(const std::string& name) const { return tensor(name).type; }
  const Extents& shape(const std::string& name, size_t dimensions) const;
  template <class S>
  const S* data(const std::string& name, const Extents& shape) const;

  // The name of a tensor that nobody has asked for, or nothing.
  std::string unused() const;

 private:
  File(Header header, Block data, int64_t size);
  const TensorInfo& tensor(const std::string& name) const;

  Header header_;
  Block data_;
  mutable std::set<std::string> used_;
};

}  // namespace fastrnn
