// Linear layers on weights of any format.
#include "library/operation.h"
#include "runtime/isa.h"

namespace fastrnn {
namespace {

template <class S>
class Linear : public Operation {
 public:
  Linear(const Source& source, int64_t inputs, int64_t outputs)
      : Operation(inputs, outputs), kernels_(frozen_kernels<S>().dense) {
    const auto floats = [&](const char* name) { return source.file.data<float>(source.name(name), {outputs}); };
    DenseWeights<S> weights{source.file.data<S>(source.name("weight"), {outputs, inputs}), nullptr, nullptr};
    if (source.file.has(source.name("bias"))) weights.bias = floats("bias");
    if (std::is_same_v<S, int8_t>) weights.scale = floats("scale");
    panels_ = make_block(kernels_.panel_bytes(inputs, outputs));
    kernels_.pack(inputs, outputs, weights, panels_.get());
  }

  int64_t workspace_bytes(const Chunk& chunk) const override {
    return kernels_.workspace(args(chunk, nullptr, nullptr));
  }
  void run(const Chunk& chunk, const float* x, float* y, float*, char* workspace) const override {
    kernels_.forward(args(chunk, x, y), workspace);
  }

 private:
  DenseArgs args(const Chunk& chunk, const float* x, float* y) const {
    return {chunk.positions(), inputs, outputs, x, panels_.get(), y};
  }

  const DenseKernels<S>& kernels_;
  Block panels_;
};

}  // namespace

std::unique_ptr<Operation> make_linear(const Source& source, int64_t inputs) {
  if (source.kind != "linear") return nullptr;
  const Extents& shape = source.file.shape(source.name("weight"), 2);
  if (inputs == 0) inputs = shape[1];
  const std::string& type = source.file.type(source.name("weight"));
  if (type == "BF16") return std::make_unique<Linear<BFloat16>>(source, inputs, shape[0]);
  if (type == "F32") return std::make_unique<Linear<float>>(source, inputs, shape[0]);
  constexpr int64_t most = 65536;  // products that are summed in 32 bits
  if (inputs > most) source.refuse("expected at most 65536 inputs with weights in I8, got " + std::to_string(inputs));
  return std::make_unique<Linear<int8_t>>(source, inputs, shape[0]);
}

}  // namespace fastrnn
