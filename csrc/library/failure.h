// What goes wrong while a model is loaded or a stream is made; it ends at the border, in fastrnn.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "library/fastrnn.h"

namespace fastrnn {

struct Failure {
  fastrnn_status status;
  std::string text;
};

[[noreturn]] inline void fail(fastrnn_status status, const std::string& text) { throw Failure{status, text}; }

// Of a tensor.
using Extents = std::vector<int64_t>;

inline std::string text_of(const Extents& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

}  // namespace fastrnn
