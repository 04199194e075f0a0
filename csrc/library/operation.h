// The operations of a model, applied one after another to what lies step by step, [steps, rows, features].
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/arguments.h"
#include "library/file.h"

namespace fastrnn {

struct Chunk {
  int64_t steps, rows;
  Rows batch;

  int64_t positions() const { return steps * rows; }
};

class Operation {
 public:
  Operation(int64_t inputs, int64_t outputs) : inputs(inputs), outputs(outputs) {}
  virtual ~Operation() = default;

  // Floats that a stream of so many rows keeps for it; all zero, they are the initial state.
  virtual int64_t state_floats(int64_t /*rows*/) const { return 0; }
  virtual int64_t workspace_bytes(const Chunk&) const { return 0; }
  // y has one step where the operation pools, which is over all steps so far.
  virtual void run(const Chunk& chunk, const float* x, float* y, float* state, char* workspace) const = 0;
  virtual bool pools() const { return false; }
  virtual int64_t directions() const { return 1; }

  const int64_t inputs, outputs;  // features
};

// Where an operation finds its tensors, and how it is spoken of.
struct Source {
  const File& file;
  std::string number, kind;

  std::string name(const std::string& tensor) const { return number + "." + tensor; }
  [[noreturn]] void refuse(const std::string& what) const {
    fail(FASTRNN_BAD_FILE, "operation " + number + ", " + kind + ": " + what);
  }
};

// Each is asked by the first word of its description; null where that is none of its own. `inputs` is what the
// operation before gives, 0 where there is none: then the operation's own tensors say it.
std::unique_ptr<Operation> make_recurrent(const Source& source, int64_t inputs, int64_t directions);
std::unique_ptr<Operation> make_linear(const Source& source, int64_t inputs);
std::unique_ptr<Operation> make_pointwise(const Source& source, int64_t inputs);
std::unique_ptr<Operation> make_pooling(const Source& source, int64_t inputs, int64_t directions);

// The rows of tokens, which come first if at all. Not an Operation: its input is none of features.
class Embedding {
 public:
  explicit Embedding(const Source& source);

  void run(const int32_t* tokens, int64_t count, float* y) const;

  const int64_t tokens, features;

 private:
  std::unique_ptr<float[]> weight_;
};

}  // namespace fastrnn
