// What the kernels take, a layer's sizes, rows, pointers and plan, and the table in which an instruction set lists
// them.
//
// Shapes below are row-major. T steps, B rows, I inputs, H hidden units, P outputs (H unless projected), D directions,
// G gates, A sums, S saved values, N rows over all steps.
#pragma once

// Some of these for the headers of the kernels: here they are included before any target pragma.
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

#include "kernels/fence.h"
#include "kernels/team.h"

namespace fastrnn {

// Whether this build has backward, and with it layers that are normalised: not that of libfastrnn.
#if defined(FASTRNN_INFERENCE)
constexpr bool kTrains = false;
#else
constexpr bool kTrains = true;
#endif

// A value of 16 bits that only products and memory hold; arithmetic on it is in float32.
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct RealOf {
  using Type = T;
};
template <>
struct RealOf<BFloat16> {
  using Type = float;
};
// What sums, gates and the gradients of a layer of T are held in.
template <class T>
using Real = typename RealOf<T>::Type;

// A cell by its position in the list of cells.h.
enum class CellKind : int {};

// What others need to know of a cell; cells.h says it, per struct.
struct CellFacts {
  const char* name;  // as in fastrnn/spec/cell.py
  int gates, sums;
  uint32_t apart;        // bit i: the two products of gate i go to sums of their own
  int saved;             // values per unit and step that forward saves; the cell state, where there is one, is the last
  int states;            // 2 where a cell state goes beside h
  int saved_by_zoneout;  // values that are saved besides with zoneout, behind the others
  bool has_carry, projectable;
};

// Units whose states stay as they were before a step, as fastrnn/spec/noise.py says.
struct Zoneout {
  double h = 0, c = 0;  // probabilities
  bool drawn = false;   // with probability; else the states are mixed as expected
  uint64_t key = 0;
  int64_t first_row = 0;

  explicit operator bool() const { return h > 0 || c > 0; }
};

struct Sizes {
  int64_t T, B, I, H, P, D, N;
};

// Row (t, b) of a sequence tensor is at row number first[t] + b * stride. Rows 0 .. active[t] - 1 take part in step t,
// and active does not increase with t. So one description covers [T, B], [B, T] and packed batches.
//
// With `place` that number is only the one under which the row's place is found: the rows of a batch whose order is
// none of memory, such as pieces of sequences. What the kernels save lies in the order of the numbers.
struct Rows {
  const int64_t* first;
  const int64_t* active;
  int64_t stride;
  const int64_t* place = nullptr;
};

template <class T>
struct Weights {
  const T *w_ih, *w_hh;  // [G*H, I], [G*H, P]
  const T *b_ih, *b_hh;  // [G*H] or null
  const T* w_hr;         // [P, H] or null
  // Of a normalised layer, else null: gains of the products with h [G*H], and of the cell state its gain and its bias
  // [H]. Its products with x are x, [N, D*G*H], and I is 0.
  const T *ln_hh, *ln_c, *b_ln_c;
};

template <class T>
struct WeightGradients {
  T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr, *ln_hh, *ln_c, *b_ln_c;  // as Weights; null where not asked for
};

// What the gradients of the weights are products of, row by row in the order of y: for who forms them otherwise.
template <class T>
struct RowGradients {
  T* dsums;   // [D, N, A*H]
  T *dh, *h;  // with a projection: the gradient of the outputs [D, N, P], and what was projected [D, N, H]
};

// How threads share a layer. Directions run side by side where threads divide among them. The threads of a direction
// split its rows, then the units of each part of the rows; splitting units costs a barrier per step.
struct Plan {
  int threads = 1;
  int directions_at_once = 1;
  int row_parts = 1;
  int unit_parts = 1;
  // Forward: x W_ih^T ahead of the steps, for the steps of about so many rows at a time; 0: inside each step's tile.
  int64_t hoist_rows = 0;
  int64_t chunk_rows = 192;     // backward: about so many rows' gate gradients give weight and input gradients at once
  bool fetch_panels = false;    // packed panels are asked for ahead, group by group: they lie beyond L2
  bool direct_forward = false;  // products straight from PyTorch's weight layout, nothing packed
  bool direct_backward = false;
  // On the matrix unit: the products of forward and of the steps of backward, and gradients of weights and inputs.
  bool matrix_steps = false, matrix_gradients = false;
};

template <class T>
struct ForwardArgs {
  Sizes sizes;
  Rows x_rows, rows;          // of x, and of everything else
  const T* x;                 // [N, I]
  const T* h_0;               // [D, B, P] or null: zeros
  const Weights<T>* weights;  // [D]
  T* y;                       // [N, D*P]
  T* h_T;                     // [D, B, P], or null where y of the only step will do
  Real<T>* cell_state;        // [D, B, H]: initial on entry and final on return; null if the cell has none
  Real<T>* saved;             // [D, N, S*H] or null; backward knows the order. With zoneout S is more than the cell's
  Real<T>* cell_states;       // [D, N, H]: after every step; null where not asked for
  const T* h_mask;            // [D, B, P]: factors of h in the products, or null: ones
  Zoneout zoneout;            // of h only without a projection
};

template <class T>
struct BackwardArgs {
  Sizes sizes;
  Rows x_rows, rows;  // of x, and of everything else
  const T* x;
  const T* h_0;                 // or null: zeros
  const Real<T>* cell_state_0;  // [D, B, H], null if the cell has none or for zeros
  const Weights<T>* weights;
  const T* y;
  const Real<T>* saved;
  const T* dy;     // [N, D*P] or null: zeros
  const T* dh_T;   // [D, B, P] or null: zeros
  Real<T>* dx;     // [N, I] or null
  Real<T>* dh_0;   // [D, B, P] or null
  Real<T>* carry;  // [D, B, H]: the gradient of the cell state, final on entry and initial on return; scratch, zero on
                   // entry, for a cell that carries the gradient of h; null for one that carries nothing
  const WeightGradients<Real<T>>* gradients;  // [D]
  RowGradients<T> by_row;                     // null where not asked for
  const Real<T>* dcell_states;                // [D, N, H]: of the cell states after every step, or null: zeros
  const T* h_mask;                            // as in ForwardArgs
  Zoneout zoneout;
  Real<T>* h_carry;  // [D, B, H], zero on entry: scratch for zoneout of h, of a cell whose carry is not of h
};

// One direction of a layer that is frozen: weights of float, of bfloat16, or of int8_t with a scale for each row.
template <class S>
struct FrozenWeights {
  const S *w_ih, *w_hh;              // [G*H, I], [G*H, P]
  const float *b_ih, *b_hh;          // [G*H] or null
  const float *scale_ih, *scale_hh;  // [G*H], null but for int8_t
};

struct FrozenArgs {
  Sizes sizes;         // P is H
  Rows x_rows, rows;   // as in ForwardArgs
  const float* x;      // [N, I]
  const float* h_0;    // [D, B, H] or null: zeros
  const char* panels;  // as FrozenKernels::pack left them
  float* y;            // [N, D*H]
  float* h_T;          // [D, B, H]
  float* cell_state;   // as in ForwardArgs
  Zoneout zoneout;     // not drawn
};

// A linear layer: y = x W^T + b, no cell and no past.
template <class S>
struct DenseWeights {
  const S* weight;     // [outputs, inputs]
  const float* bias;   // [outputs] or null
  const float* scale;  // [outputs], null but for int8_t
};

struct DenseArgs {
  int64_t rows, inputs, outputs;
  const float* x;      // [rows, inputs]
  const char* panels;  // as DenseKernels::pack left them
  float* y;            // [rows, outputs]
};

// The kernels of linear layers with weights stored as S. One thread runs them.
template <class S>
struct DenseKernels {
  int64_t (*panel_bytes)(int64_t inputs, int64_t outputs);
  void (*pack)(int64_t inputs, int64_t outputs, const DenseWeights<S>&, char* panels);  // panels aligned to 64 bytes
  int64_t (*workspace)(const DenseArgs&);
  void (*forward)(const DenseArgs&, char* workspace);
};

enum class Activation { kRelu, kTanh, kSigmoid };

// The kernels of one instruction set for weights frozen as S.
template <class S>
struct FrozenKernels {
  int64_t (*panel_bytes)(CellKind, const Sizes&);                               // only D, I, H and P count
  void (*pack)(CellKind, const Sizes&, const FrozenWeights<S>*, char* panels);  // panels aligned to 64 bytes
  int64_t (*workspace)(CellKind, const FrozenArgs&, const Plan&);
  void (*forward)(CellKind, const FrozenArgs&, const Plan&, Team, char* workspace);
  int block_rows;  // as in Kernels
  bool matrix;
  DenseKernels<S> dense;
};

// The compiled kernels of one instruction set.
template <class T>
struct Kernels {
  int64_t (*forward_workspace)(CellKind, const ForwardArgs<T>&, const Plan&);  // in bytes
  void (*forward)(CellKind, const ForwardArgs<T>&, const Plan&, Team, char* workspace);
  int64_t (*backward_workspace)(CellKind, const BackwardArgs<T>&, const Plan&);
  void (*backward)(CellKind, const BackwardArgs<T>&, const Plan&, Team, char* workspace);
  // Both run and count fused multiply-adds: in registers alone, and in a register tile fed from L1, of two shapes.
  double (*multiply_adds)(int64_t rounds);
  double (*tile_products)(int64_t rounds, bool tall);
  int block_rows;  // for which a panel of a step's products is read once
  bool matrix;     // multiplies on a matrix unit
};

// Those of an instruction set that multiplies values of 16 and 8 bits.
struct ShortKernels {
  Kernels<BFloat16> bf16;
  Kernels<float> f32_rounded;
  FrozenKernels<BFloat16> frozen_bf16;
  FrozenKernels<int8_t> frozen_int8;
};

// A build with FASTRNN_INFERENCE, for programs that train nothing, has forward in float32 and what is frozen; one
// without it all but what only those use: frozen_f32, `dense` and `activate`. What a build lacks is null.
struct InstructionSet {
  const char* name;
  int vector_bytes;
  const CellFacts* cells;  // by kind
  int cell_count;
  Kernels<float> f32;
  Kernels<double> f64;
  float (*stream)(const float* buffer, int64_t elements, int64_t rounds);  // reads a buffer over and over
  FrozenKernels<BFloat16> frozen_bf16;
  FrozenKernels<int8_t> frozen_int8;
  FrozenKernels<float> frozen_f32;
  void (*activate)(Activation, const float* x, float* y, int64_t n);
  // Where it multiplies bfloat16: for tensors of it, which elsewhere are converted to float32, and for those of float32
  // whose products take them rounded.
  const Kernels<BFloat16>* bf16 = nullptr;
  const Kernels<float>* f32_rounded = nullptr;
};

}  // namespace fastrnn
