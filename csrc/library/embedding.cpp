#include <cstring>

#include "library/operation.h"

namespace fastrnn {
namespace {

float widened(BFloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
float widened(float x) { return x; }
float widened(int8_t x) { return x; }

template <class S>
void widen(const Source& source, const Extents& shape, float* out) {
  const S* weight = source.file.data<S>(source.name("weight"), shape);
  const float* scale = std::is_same_v<S, int8_t> ? source.file.data<float>(source.name("scale"), {shape[0]}) : nullptr;
  for (int64_t row = 0; row < shape[0]; ++row)
    for (int64_t i = 0; i < shape[1]; ++i) *out++ = widened(*weight++) * (scale ? scale[row] : 1);
}

}  // namespace

Embedding::Embedding(const Source& source)
    : tokens(source.file.shape(source.name("weight"), 2)[0]),
      features(source.file.shape(source.name("weight"), 2)[1]),
      weight_(new float[tokens * features]) {
  const std::string& type = source.file.type(source.name("weight"));
  const Extents shape = {tokens, features};
  if (type == "BF16")
    widen<BFloat16>(source, shape, weight_.get());
  else if (type == "F32")
    widen<float>(source, shape, weight_.get());
  else
    widen<int8_t>(source, shape, weight_.get());
}

void Embedding::run(const int32_t* of, int64_t count, float* y) const {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(y + i * features, weight_.get() + of[i] * features, features * sizeof(float));
}

}  // namespace fastrnn
