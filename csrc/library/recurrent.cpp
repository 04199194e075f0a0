// Layers of recurrent cells: one direction or two, on weights of any format; with a projection in float32.
#include <cstring>
#include <utility>

#include "library/operation.h"
#include "runtime/isa.h"
#include "runtime/layer.h"

namespace fastrnn {
namespace {

// A stream runs on the thread that calls it.
constexpr Team kAlone{0, 1, nullptr, nullptr};

struct Layer {
  LayerOptions options;
  Sizes n;  // I, H, P and D
};

// The tensors of a direction, in the order of Weights.
template <class S>
FrozenWeights<S> weights_of(const Source& source, const Layer& layer, int64_t direction) {
  const std::string end = direction == 1 ? "_reverse" : "";
  const Sizes& n = layer.n;
  const int64_t gates = cell_facts(layer.options.cell).gates * n.H;
  const auto floats = [&](const char* name) { return source.file.data<float>(source.name(name + end), {gates}); };
  FrozenWeights<S> w{};
  w.w_ih = source.file.data<S>(source.name("weight_ih" + end), {gates, n.I});
  w.w_hh = source.file.data<S>(source.name("weight_hh" + end), {gates, n.P});
  if (layer.options.has_bias) w.b_ih = floats("bias_ih"), w.b_hh = floats("bias_hh");
  if (std::is_same_v<S, int8_t>) w.scale_ih = floats("scale_ih"), w.scale_hh = floats("scale_hh");
  return w;
}

class Recurrent : public Operation {
 public:
  explicit Recurrent(const Layer& layer)
      : Operation(layer.n.I, layer.n.D * layer.n.P), layer_(layer), facts_(cell_facts(layer.options.cell)) {}

  int64_t state_floats(int64_t rows) const override {
    return layer_.n.D * rows * (layer_.n.P + (facts_.states - 1) * layer_.n.H);
  }
  int64_t directions() const override { return layer_.n.D; }

 protected:
  Sizes sizes(const Chunk& chunk) const {
    Sizes n = layer_.n;
    n.T = chunk.steps, n.B = chunk.rows, n.N = chunk.positions();
    return n;
  }
  // Behind h, where the cell has one.
  float* cell_state(const Chunk& chunk, float* state) const {
    return state && facts_.states > 1 ? state + layer_.n.D * chunk.rows * layer_.n.P : nullptr;
  }

  const Layer layer_;
  const CellFacts facts_;
};

template <class S>
class Packed : public Recurrent {
 public:
  Packed(const Source& source, const Layer& layer) : Recurrent(layer), kernels_(frozen_kernels<S>()) {
    FrozenWeights<S> weights[2];
    for (int64_t d = 0; d < layer.n.D; ++d) weights[d] = weights_of<S>(source, layer, d);
    panels_ = make_block(kernels_.panel_bytes(layer.options.cell, layer.n));
    kernels_.pack(layer.options.cell, layer.n, weights, panels_.get());
  }

  int64_t workspace_bytes(const Chunk& chunk) const override {
    return kernels_.workspace(layer_.options.cell, args(chunk, nullptr, nullptr, nullptr), Plan());
  }
  void run(const Chunk& chunk, const float* x, float* y, float* state, char* workspace) const override {
    kernels_.forward(layer_.options.cell, args(chunk, x, y, state), Plan(), kAlone, workspace);
  }

 private:
  FrozenArgs args(const Chunk& chunk, const float* x, float* y, float* state) const {
    return {.sizes = sizes(chunk),
            .x_rows = chunk.batch,
            .rows = chunk.batch,
            .x = x,
            .h_0 = state,
            .panels = panels_.get(),
            .y = y,
            .h_T = state,
            .cell_state = cell_state(chunk, state)};
  }

  const FrozenKernels<S>& kernels_;
  Block panels_;
};

// Weights are multiplied as they lie: packing, which these kernels do in every call, would take longer than a step.
class Projected : public Recurrent {
 public:
  Projected(const Source& source, const Layer& layer) : Recurrent(layer), kernels_(kernels<float>()) {
    plan_.direct_forward = true;
    const Extents projection = {layer.n.P, layer.n.H};
    for (int64_t d = 0; d < layer.n.D; ++d) {
      const FrozenWeights<float> w = weights_of<float>(source, layer, d);
      const int64_t gates = facts_.gates * layer.n.H;
      const float* w_hr = source.file.data<float>(source.name(d == 1 ? "weight_hr_reverse" : "weight_hr"), projection);
      weights_[d] = {.w_ih = copy(w.w_ih, gates * layer.n.I),
                     .w_hh = copy(w.w_hh, gates * layer.n.P),
                     .b_ih = copy(w.b_ih, gates),
                     .b_hh = copy(w.b_hh, gates),
                     .w_hr = copy(w_hr, layer.n.P * layer.n.H)};
    }
  }

  int64_t workspace_bytes(const Chunk& chunk) const override {
    return kernels_.forward_workspace(layer_.options.cell, args(chunk, nullptr, nullptr, nullptr), plan_);
  }
  void run(const Chunk& chunk, const float* x, float* y, float* state, char* workspace) const override {
    kernels_.forward(layer_.options.cell, args(chunk, x, y, state), plan_, kAlone, workspace);
  }

 private:
  const float* copy(const float* from, int64_t count) {
    if (!from) return nullptr;
    Block& block = blocks_.emplace_back(make_block(count * sizeof(float)));
    std::memcpy(block.get(), from, count * sizeof(float));
    return reinterpret_cast<const float*>(block.get());
  }
  ForwardArgs<float> args(const Chunk& chunk, const float* x, float* y, float* state) const {
    return {.sizes = sizes(chunk),
            .x_rows = chunk.batch,
            .rows = chunk.batch,
            .x = x,
            .h_0 = state,
            .weights = weights_,
            .y = y,
            .h_T = state,
            .cell_state = cell_state(chunk, state),
            .saved = nullptr,
            .cell_states = nullptr};
  }

  const Kernels<float>& kernels_;
  Plan plan_;
  std::vector<Block> blocks_;
  Weights<float> weights_[2] = {};
};

}  // namespace

std::unique_ptr<Operation> make_recurrent(const Source& source, int64_t inputs, int64_t directions) {
  const auto cell = find_cell(source.kind);
  if (!cell) return nullptr;
  const CellFacts& facts = cell_facts(*cell);
  const File& file = source.file;
  const Extents &w_ih = file.shape(source.name("weight_ih"), 2), &w_hh = file.shape(source.name("weight_hh"), 2);
  if (w_ih[0] % facts.gates != 0)
    source.refuse("expected a multiple of " + std::to_string(facts.gates) + " rows in weight_ih, got " +
                  std::to_string(w_ih[0]));
  Layer layer{};
  layer.options = {.cell = *cell,
                   .form = Form::kTimeFirst,
                   .directions = directions,
                   .has_bias = file.has(source.name("bias_ih")),
                   .projected = file.has(source.name("weight_hr"))};
  layer.n.I = inputs > 0 ? inputs : w_ih[1];
  layer.n.H = w_ih[0] / facts.gates;
  layer.n.P = layer.options.projected ? w_hh[1] : layer.n.H;
  layer.n.D = directions;
  const std::string& type = file.type(source.name("weight_hh"));
  if (layer.options.projected) {
    if (!facts.projectable) source.refuse("expected no weight_hr");
    return std::make_unique<Projected>(source, layer);
  }
  if (type == "BF16") return std::make_unique<Packed<BFloat16>>(source, layer);
  if (type == "F32") return std::make_unique<Packed<float>>(source, layer);
  constexpr int64_t most = 65536;  // products that are summed in 32 bits
  if (layer.n.I > most || layer.n.H > most)
    source.refuse("expected at most 65536 inputs and units with weights in I8, got " + std::to_string(layer.n.I) +
                  " and " + std::to_string(layer.n.H));
  return std::make_unique<Packed<int8_t>>(source, layer);
}

}  // namespace fastrnn
