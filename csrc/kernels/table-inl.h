// The table of kernels of one instruction set; included last by each isa_*.cpp.
#pragma once

#include "kernels/backward-inl.h"
#include "kernels/dense-inl.h"
#include "kernels/facts-inl.h"
#include "kernels/forward-inl.h"
#include "kernels/frozen-inl.h"
#include "kernels/probe-inl.h"

namespace fastrnn {
namespace {

template <class T, class Q>
int64_t forward_workspace(CellKind kind, const ForwardArgs<T>& args, const Plan& plan) {
  return with_cell(kind, [&]<class Cell>() {
    return LayerForward<T, Q, Cell>(args, plan, Team{0, plan.threads, nullptr, nullptr}, nullptr).workspace();
  });
}

template <class T, class Q>
void forward(CellKind kind, const ForwardArgs<T>& args, const Plan& plan, Team team, char* workspace) {
  with_cell(kind, [&]<class Cell>() { LayerForward<T, Q, Cell>(args, plan, team, workspace).run(); });
}

template <class T, class Q>
int64_t backward_workspace(CellKind kind, const BackwardArgs<T>& args, const Plan& plan) {
  return with_cell(kind, [&]<class Cell>() {
    return LayerBackward<T, Q, Cell>(args, plan, Team{0, plan.threads, nullptr, nullptr}, nullptr).workspace();
  });
}

template <class T, class Q>
void backward(CellKind kind, const BackwardArgs<T>& args, const Plan& plan, Team team, char* workspace) {
  with_cell(kind, [&]<class Cell>() { LayerBackward<T, Q, Cell>(args, plan, team, workspace).run(); });
}

// For tensors of T, whose products take Q.
template <class T, class Q = T>
constexpr Kernels<T> kernels() {
  if constexpr (kTrains)
    return {forward_workspace<T, Q>,
            forward<T, Q>,
            backward_workspace<T, Q>,
            backward<T, Q>,
            multiply_adds<Q>,
            tile_products<Q>,
            kMostRows<Q>,
            kMatrix<Q>};
  else if constexpr (std::is_same_v<T, float> && std::is_same_v<Q, float>)
    return {.forward_workspace = forward_workspace<T, Q>, .forward = forward<T, Q>};
  else
    return {};
}

template <class Format>
int64_t panel_bytes(CellKind kind, const Sizes& sizes) {
  return with_cell(kind, [&]<class Cell>() { return FrozenPanels<Cell, Format>(sizes, nullptr).bytes(); });
}

template <class Format>
void pack_frozen(CellKind kind, const Sizes& sizes, const FrozenWeights<typename Format::Stored>* weights,
                 char* panels) {
  __builtin_memset(panels, 0, panel_bytes<Format>(kind, sizes));
  with_cell(kind, [&]<class Cell>() { FrozenPanels<Cell, Format>(sizes, panels).pack(weights); });
}

template <class Format>
int64_t frozen_workspace(CellKind kind, const FrozenArgs& args, const Plan& plan) {
  return with_cell(kind, [&]<class Cell>() {
    return FrozenForward<Cell, Format>(args, plan, Team{0, plan.threads, nullptr, nullptr}, nullptr).workspace();
  });
}

template <class Format>
void frozen_forward(CellKind kind, const FrozenArgs& args, const Plan& plan, Team team, char* workspace) {
  with_cell(kind, [&]<class Cell>() { FrozenForward<Cell, Format>(args, plan, team, workspace).run(); });
}

template <class Format>
constexpr FrozenKernels<typename Format::Stored> frozen_kernels() {
  FrozenKernels<typename Format::Stored> out{panel_bytes<Format>,
                                             pack_frozen<Format>,
                                             frozen_workspace<Format>,
                                             frozen_forward<Format>,
                                             Format::kBlockRows,
                                             Format::kOnTiles,
                                             {}};
  if constexpr (!kTrains)
    out.dense = {dense_panel_bytes<Format>, dense_pack<Format>, dense_workspace<Format>, dense_forward<Format>};
  return out;
}

#if defined(FASTRNN_BFLOAT16)
template <class FrozenBf16, class FrozenInt8>
constexpr ShortKernels short_kernels() {
  return {kernels<BFloat16>(), kernels<float, BFloat16>(), frozen_kernels<FrozenBf16>(), frozen_kernels<FrozenInt8>()};
}
#endif

[[maybe_unused]] constexpr InstructionSet instruction_set(const char* name) {
  InstructionSet out{.name = name,
                     .vector_bytes = FASTRNN_VECTOR_BYTES,
                     .cells = CellTable::of,
                     .cell_count = CellTable::count,
                     .f32 = kernels<float>(),
                     .f64 = kernels<double>(),
                     .stream = nullptr,
                     .frozen_bf16 = frozen_kernels<Widened<BFloat16>>(),
                     .frozen_int8 = frozen_kernels<Widened<int8_t>>(),
                     .frozen_f32 = {},
                     .activate = nullptr};
  if constexpr (kTrains)
    out.stream = stream<float>;
  else
    out.frozen_f32 = frozen_kernels<Widened<float>>(), out.activate = activate;
  return out;
}

}  // namespace
}  // namespace fastrnn
