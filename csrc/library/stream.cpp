#include "library/stream.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/fence.h"

namespace fastrnn {
namespace {

// Enough for any sequence and far from what overflows: 4 TB of floats.
constexpr int64_t kMost = int64_t(1) << 40;

int64_t widest(const Model& model) {
  int64_t most = std::max(model.embedding() ? model.embedding()->features : 0, model.outputs());
  for (const auto& operation : model.operations()) most = std::max({most, operation->inputs, operation->outputs});
  return most;
}

}  // namespace

Stream::Stream(std::shared_ptr<const Model> model, int64_t rows, int64_t steps)
    : model_(std::move(model)), rows_(rows), steps_(steps) {
  const int64_t width = widest(*model_);
  if (rows < 1 || steps < 1 || rows > kMost / steps || rows * steps > kMost / width)
    fail(FASTRNN_BAD_ARGUMENT, "expected rows and steps from 1 on with at most 2^40 features in all, got " +
                                   std::to_string(rows) + " rows and " + std::to_string(steps) + " steps of " +
                                   std::to_string(width) + " features");
  batch_.set_dense(steps, rows, /*x_by_sequence=*/false);
  const Chunk chunk{steps, rows, batch_.rows()};
  int64_t floats = 0;
  for (const auto& operation : model_->operations()) {
    place_.push_back(floats);
    floats += operation->state_floats(rows);
    workspace_bytes_ = std::max(workspace_bytes_, operation->workspace_bytes(chunk));
  }
  state_.resize(floats);
  workspace_ = make_block(workspace_bytes_);
  for (Block& block : between_) block = make_block(chunk.positions() * width * sizeof(float));
}

void Stream::process(const float* input, int64_t steps, float* output) { process_in_chunks(input, steps, output); }
void Stream::process(const int32_t* tokens, int64_t steps, float* output) { process_in_chunks(tokens, steps, output); }

template <class In>
void Stream::process_in_chunks(const In* input, int64_t steps, float* output) {
  const int64_t in = rows_ * (std::is_same_v<In, int32_t> ? 1 : model_->inputs());
  const int64_t out = model_->pools() ? 0 : rows_ * model_->outputs();
  for (int64_t done = 0; done < steps; done += steps_)
    run(input + done * in, {std::min(steps_, steps - done), rows_, batch_.rows()}, output + done * out);
  fresh_ = false;
}

void Stream::run(const int32_t* tokens, const Chunk& chunk, float* y) {
  const bool alone = model_->operations().empty();
  float* const x = alone ? y : reinterpret_cast<float*>(between_[1].get());
  model_->embedding()->run(tokens, chunk.positions(), x);
  if (!alone) run(x, chunk, y);
}

void Stream::run(const float* x, const Chunk& whole, float* y) {
  const auto& operations = model_->operations();
  Chunk chunk = whole;
  for (size_t i = 0; i < operations.size(); ++i) {
    float* const to = i + 1 == operations.size() ? y : reinterpret_cast<float*>(between_[i % 2].get());
    open_to_all(workspace_.get(), workspace_bytes_);
    operations[i]->run(chunk, x, to, state_.data() + place_[i], workspace_.get());
    if (operations[i]->pools()) chunk.steps = 1;
    x = to;
  }
}

void Stream::set_state(const float* state) {
  std::memcpy(state_.data(), state, state_.size() * sizeof(float));
  fresh_ = true;
}

void Stream::reset() {
  std::fill(state_.begin(), state_.end(), 0.0f);
  fresh_ = true;
}

}  // namespace fastrnn
