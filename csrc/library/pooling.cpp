// One step of many. The state of a stream is what came out so far and, behind it, the number of steps.
#include <algorithm>
#include <cstring>

#include "library/operation.h"

namespace fastrnn {
namespace {

// Up to here a float counts every step; a mean of more goes on as one of so many.
constexpr float kMostSteps = 1 << 24;

class Pooling : public Operation {
 public:
  using Operation::Operation;

  int64_t state_floats(int64_t rows) const override { return rows * inputs + 1; }
  bool pools() const override { return true; }
  void run(const Chunk& chunk, const float* x, float* y, float* state, char*) const override {
    const int64_t width = chunk.rows * inputs;
    float& steps = state[width];
    for (int64_t t = 0; t < chunk.steps; ++t, x += width) {
      steps = std::min(steps + 1, kMostSteps);
      take(x, state, width, steps);
    }
    std::memcpy(y, state, width * sizeof(float));
  }

 private:
  // The step x, the steps-th, into what is there of those before.
  virtual void take(const float* x, float* pooled, int64_t width, float steps) const = 0;
};

class Max : public Pooling {
  using Pooling::Pooling;
  void take(const float* x, float* pooled, int64_t width, float steps) const override {
    // NaN stays NaN.
    for (int64_t i = 0; i < width; ++i) pooled[i] = steps == 1 || !(x[i] <= pooled[i]) ? x[i] : pooled[i];
  }
};

class Mean : public Pooling {
  using Pooling::Pooling;
  void take(const float* x, float* pooled, int64_t width, float steps) const override {
    for (int64_t i = 0; i < width; ++i) pooled[i] += (x[i] - pooled[i]) / steps;
  }
};

class Last : public Pooling {
 public:
  Last(int64_t features, int64_t directions) : Pooling(features, features), forward_(features / directions) {}

 private:
  // The second direction ends at the first step.
  void take(const float* x, float* pooled, int64_t width, float steps) const override {
    for (int64_t row = 0; row < width; row += inputs)
      std::memcpy(pooled + row, x + row, (steps == 1 ? inputs : forward_) * sizeof(float));
  }

  const int64_t forward_;
};

}  // namespace

std::unique_ptr<Operation> make_pooling(const Source& source, int64_t inputs, int64_t directions) {
  if (source.kind != "max" && source.kind != "mean" && source.kind != "last") return nullptr;
  if (inputs == 0) source.refuse("expected an operation before it");
  if (source.kind == "max") return std::make_unique<Max>(inputs, inputs);
  if (source.kind == "mean") return std::make_unique<Mean>(inputs, inputs);
  if (inputs % directions != 0)
    source.refuse("expected an even number of features for 2 directions, got " + std::to_string(inputs));
  return std::make_unique<Last>(inputs, directions);
}

}  // namespace fastrnn
