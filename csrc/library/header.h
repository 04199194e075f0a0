// The header of a file in the format safetensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "library/failure.h"

namespace fastrnn {

struct TensorInfo {
  std::string type;
  Extents shape;
  int64_t begin, end;  // bytes of the data, behind the header
};

struct Header {
  std::map<std::string, std::string> metadata;
  std::map<std::string, TensorInfo> tensors;
};

// Of the JSON that such a header may have: an object of one level of objects, their values strings, numbers from 0 on
// and lists of these. Throws Failure for anything else.
Header parse_header(std::string_view json);

}  // namespace fastrnn
