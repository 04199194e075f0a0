// A stream: the state of some rows, and the memory that their steps take.
#pragma once

#include <memory>
#include <vector>

#include "library/model.h"
#include "runtime/layer.h"

namespace fastrnn {

class Stream {
 public:
  // Throws Failure.
  Stream(std::shared_ptr<const Model> model, int64_t rows, int64_t steps);

  const Model& model() const { return *model_; }
  int64_t rows() const { return rows_; }
  int64_t steps() const { return steps_; }
  // Whether a model that takes whole sequences may be given one.
  bool fresh() const { return fresh_; }

  // On arguments that fit. Nothing here allocates, locks or asks the system.
  void process(const float* input, int64_t steps, float* output);
  void process(const int32_t* tokens, int64_t steps, float* output);

  int64_t state_size() const { return int64_t(state_.size()); }
  const float* state() const { return state_.data(); }
  void set_state(const float* state);
  void reset();

 private:
  template <class In>
  void process_in_chunks(const In* input, int64_t steps, float* output);
  void run(const float* x, const Chunk& chunk, float* y);
  void run(const int32_t* tokens, const Chunk& chunk, float* y);

  const std::shared_ptr<const Model> model_;
  const int64_t rows_, steps_;
  BatchRows batch_;
  std::vector<float> state_;
  std::vector<int64_t> place_;  // of each operation's state
  Block between_[2], workspace_;
  int64_t workspace_bytes_ = 0;
  bool fresh_ = true;
};

}  // namespace fastrnn
