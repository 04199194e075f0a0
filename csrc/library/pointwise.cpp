// What is done to each step by itself and without products.
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "library/operation.h"
#include "runtime/isa.h"

namespace fastrnn {
namespace {

class Activate : public Operation {
 public:
  Activate(int64_t features, Activation kind)
      : Operation(features, features), kind_(kind), activate_(instruction_set().activate) {}

  void run(const Chunk& chunk, const float* x, float* y, float*, char*) const override {
    activate_(kind_, x, y, chunk.positions() * inputs);
  }

 private:
  const Activation kind_;
  void (*const activate_)(Activation, const float*, float*, int64_t);
};

class Softmax : public Operation {
 public:
  explicit Softmax(int64_t features) : Operation(features, features) {}

  void run(const Chunk& chunk, const float* x, float* y, float*, char*) const override {
    for (int64_t row = 0; row < chunk.positions(); ++row, x += inputs, y += inputs) {
      const float largest = *std::max_element(x, x + inputs);
      float sum = 0;
      for (int64_t i = 0; i < inputs; ++i) sum += y[i] = std::exp(x[i] - largest);
      for (int64_t i = 0; i < inputs; ++i) y[i] /= sum;
    }
  }
};

class Affine : public Operation {
 public:
  Affine(const Source& source, int64_t features)
      : Operation(features, features), scale_(copy(source, "scale")), shift_(copy(source, "shift")) {}

  void run(const Chunk& chunk, const float* x, float* y, float*, char*) const override {
    for (int64_t row = 0; row < chunk.positions(); ++row, x += inputs, y += inputs)
      for (int64_t i = 0; i < inputs; ++i) y[i] = x[i] * scale_[i] + shift_[i];
  }

 private:
  std::vector<float> copy(const Source& source, const char* name) const {
    const float* values = source.file.data<float>(source.name(name), {inputs});
    return {values, values + inputs};
  }

  const std::vector<float> scale_, shift_;
};

std::optional<Activation> find_activation(const std::string& name) {
  if (name == "relu") return Activation::kRelu;
  if (name == "tanh") return Activation::kTanh;
  if (name == "sigmoid") return Activation::kSigmoid;
  return std::nullopt;
}

}  // namespace

std::unique_ptr<Operation> make_pointwise(const Source& source, int64_t inputs) {
  if (source.kind == "affine")
    return std::make_unique<Affine>(source, inputs ? inputs : source.file.shape(source.name("scale"), 1)[0]);
  const auto activation = find_activation(source.kind);
  if (!activation && source.kind != "softmax") return nullptr;
  if (inputs == 0) source.refuse("expected an operation before it");
  if (activation) return std::make_unique<Activate>(inputs, *activation);
  return std::make_unique<Softmax>(inputs);
}

}  // namespace fastrnn
