// Linear layers on packed weights of any format, and activations: what stands around recurrent layers.
#pragma once

#include "kernels/frozen-inl.h"

namespace fastrnn {
namespace {

// To the formats a linear layer is a cell of one gate that has no recurrent weights.
struct DenseColumns {
  using Gates = AddedGates<1>;
  static constexpr int kUnitVectors = kTileCols;
};

constexpr Sizes dense_sizes(int64_t inputs, int64_t outputs) {
  return {.T = 1, .B = 1, .I = inputs, .H = outputs, .P = 0, .D = 1, .N = 1};
}

template <class Format>
int64_t dense_panel_bytes(int64_t inputs, int64_t outputs) {
  return FrozenPanels<DenseColumns, Format>(dense_sizes(inputs, outputs), nullptr).bytes();
}

template <class Format>
void dense_pack(int64_t inputs, int64_t outputs, const DenseWeights<typename Format::Stored>& w, char* panels) {
  __builtin_memset(panels, 0, dense_panel_bytes<Format>(inputs, outputs));
  const FrozenWeights<typename Format::Stored> weights{w.weight, nullptr, w.bias, nullptr, w.scale, nullptr};
  FrozenPanels<DenseColumns, Format>(dense_sizes(inputs, outputs), panels).pack(&weights);
}

template <class Format>
class DenseForward {
  using Columns = ColumnGroups<float, DenseColumns::kUnitVectors>;
  using Gates = DenseColumns::Gates;
  using Block = BlockSums<typename Format::Stored>;
  static constexpr int64_t kWholeRows = Format::kOnTiles ? 16 : 1, kSpare = Format::kOnTiles ? Format::kBlockRows : 0;
  static constexpr int64_t kIntegers = larger(1, Format::kIntegers* Format::kBlockRows* Columns::kWidth);

 public:
  DenseForward(const DenseArgs& args, char* workspace)
      : a_(args), panels_(dense_sizes(args.inputs, args.outputs), const_cast<char*>(args.panels)) {
    Arena arena{workspace};
    encoded_ = arena.take<char>((args.rows + kSpare) * ld_);
    workspace_ = arena.used;
  }

  int64_t workspace() const { return workspace_; }

  void run() {
    TilesInUse tiles(Format::kOnTiles);
    tiles.shape(a_.rows, Format::kLeftTiles);
    for (int64_t row = 0; row < a_.rows; ++row) Format::encode(encoded_ + row * ld_, a_.x + row * a_.inputs, a_.inputs);
    for (int64_t q = 0; q < columns_.count(); ++q)
      for_row_blocks(
          Format::kBlockRows, {0, a_.rows}, [&](int64_t row, int count) { block(q, row, count); }, kWholeRows);
  }

 private:
  void block(int64_t q, int64_t row, int count) {
    alignas(64) float sums[Format::kBlockRows * Columns::kWidth];
    alignas(64) int32_t integers[kIntegers];
    const int vectors = columns_.vectors(q);
    const Block block{
        sums,     integers, count, vectors, {panels_.bias(0, q), 0}, {encoded_ + row * ld_, ld_}, panels_.x(0, q),
        a_.inputs};
    Format::template begin<Gates, DenseColumns::kUnitVectors, Side::kInput>(block, Nothing());
    if constexpr (Format::kIntegers > 0)
      Format::template finish<Gates, DenseColumns::kUnitVectors, Side::kInput>(block, 0, count);
    for (int r = 0; r < count; ++r) {
      float* const y = a_.y + (row + r) * a_.outputs;
      for (int v = 0; v < vectors; ++v) {
        const int64_t column = q * Columns::kWidth + v * kLanes<float>;
        store(y + column, load(sums + (r * vectors + v) * kLanes<float>), valid_lanes<float>(column, a_.outputs));
      }
    }
  }

  const DenseArgs& a_;
  const FrozenPanels<DenseColumns, Format> panels_;
  const Columns columns_{a_.outputs};
  const int64_t ld_ = Format::row_bytes(a_.inputs);
  char* encoded_ = nullptr;
  int64_t workspace_ = 0;
};

template <class Format>
int64_t dense_workspace(const DenseArgs& args) {
  return DenseForward<Format>(args, nullptr).workspace();
}

template <class Format>
void dense_forward(const DenseArgs& args, char* workspace) {
  DenseForward<Format>(args, workspace).run();
}

template <class F>
void for_vectors(const float* x, float* y, int64_t n, F&& f) {
  for (int64_t i = 0; i < n; i += kLanes<float>) {
    const int lanes = valid_lanes<float>(i, n);
    store(y + i, f(load(x + i, lanes)), lanes);
  }
}

[[maybe_unused]] void activate(Activation kind, const float* x, float* y, int64_t n) {
  switch (kind) {
    case Activation::kRelu:
      return for_vectors(x, y, n, [](Vec<float> v) { return relu<float>(v); });
    case Activation::kTanh:
      return for_vectors(x, y, n, [](Vec<float> v) { return tanh<float>(v); });
    case Activation::kSigmoid:
      return for_vectors(x, y, n, [](Vec<float> v) { return sigmoid<float>(v); });
  }
}

}  // namespace
}  // namespace fastrnn
