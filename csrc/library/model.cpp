#include "library/model.h"

#include "runtime/isa.h"

namespace fastrnn {
namespace {

constexpr const char* kVersion = "1";

struct Description {
  std::string kind;
  int64_t directions;
};

Description parsed(const std::string& number, const std::string& text) {
  const size_t space = text.find(' ');
  if (space == std::string::npos) return {text, 1};
  const std::string option = text.substr(space + 1);
  if (option != "directions=1" && option != "directions=2")
    fail(FASTRNN_BAD_FILE, "operation " + number + ": expected directions=1 or directions=2, got '" + option + "'");
  return {text.substr(0, space), option.back() - '0'};
}

}  // namespace

Model::Model(const File& file) : isa_(instruction_set().name) {
  const auto& metadata = file.metadata();
  const auto version = metadata.find("fastrnn");
  if (version == metadata.end() || version->second != kVersion)
    fail(FASTRNN_BAD_FILE, std::string("expected \"fastrnn\": \"") + kVersion + "\" in __metadata__, got " +
                               (version == metadata.end() ? "none" : "'" + version->second + "'"));
  for (int64_t i = 0;; ++i) {
    const auto found = metadata.find(std::to_string(i));
    if (found == metadata.end()) break;
    add(file, found->first, found->second);
  }
  if (!embedding_ && operations_.empty()) fail(FASTRNN_BAD_FILE, "expected operation \"0\" in __metadata__, got none");
  const std::string unused = file.unused();
  if (!unused.empty()) fail(FASTRNN_BAD_FILE, "expected the tensors of its operations alone, got " + unused);
}

void Model::add(const File& file, const std::string& number, const std::string& text) {
  const auto [kind, directions] = parsed(number, text);
  const Source source{file, number, kind};
  const bool first = !embedding_ && operations_.empty();
  if (kind == "embedding") {
    if (!first) source.refuse("expected it first");
    embedding_ = std::make_unique<Embedding>(source);
    return;
  }
  const int64_t inputs = first ? 0 : outputs();
  auto operation = make_recurrent(source, inputs, directions);
  if (!operation) operation = make_linear(source, inputs);
  if (!operation) operation = make_pointwise(source, inputs);
  if (!operation) operation = make_pooling(source, inputs, directions);
  if (!operation) source.refuse("expected an operation of this library");
  check_order(source, *operation);
  operations_.push_back(std::move(operation));
}

// Behind a pooling there are no steps left.
void Model::check_order(const Source& source, const Operation& operation) {
  if (pools_ && (operation.pools() || operation.state_floats(1) > 0))
    source.refuse("expected no such operation behind max, mean or last");
  pools_ |= operation.pools();
  whole_sequences_ |= operation.directions() > 1;
}

}  // namespace fastrnn
