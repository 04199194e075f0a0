// A model, as it is in a file. It does not change, and any number of streams share it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "library/operation.h"

namespace fastrnn {

class Model {
 public:
  // Throws Failure.
  explicit Model(const File& file);

  const char* isa() const { return isa_; }
  bool takes_tokens() const { return embedding_ != nullptr; }
  int64_t inputs() const { return takes_tokens() ? embedding_->tokens : operations_.front()->inputs; }
  int64_t outputs() const { return operations_.empty() ? embedding_->features : operations_.back()->outputs; }
  bool pools() const { return pools_; }
  bool takes_whole_sequences() const { return whole_sequences_; }

  const Embedding* embedding() const { return embedding_.get(); }
  const std::vector<std::unique_ptr<Operation>>& operations() const { return operations_; }

 private:
  void add(const File& file, const std::string& number, const std::string& description);
  void check_order(const Source& source, const Operation& operation);

  const char* isa_;
  std::unique_ptr<Embedding> embedding_;
  std::vector<std::unique_ptr<Operation>> operations_;
  bool pools_ = false, whole_sequences_ = false;
};

}  // namespace fastrnn
