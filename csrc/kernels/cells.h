// The cells. Each is two pure functions on vectors of hidden units, and the facts that lay out its memory, which
// facts-inl.h checks:
//
//   kName          its key in CELLS of fastrnn/spec/cell.py
//   kGates         gates stacked in weight_ih and weight_hh, in PyTorch's order
//   kSums          pre-activation sums per unit. A gate's products with x and with h go to the sums x_sum(gate) and
//                  h_sum(gate); where these are the same, they are added in one register.
//   kSaved         values per unit and step that forward saves for backward
//   kCellState     index in `saved` of the state that only the cell sees (an LSTM's c): the last, or -1 if it has none
//   kReadsHidden   forward and backward read h of the step before
//   kReadsOutput   backward reads this step's h
//   kCarry         what travels backward in time beside the products: gradient of the cell state, of h, or nothing
//   kProjectable   h may be projected: then backward needs it again
//   kUnitVectors   vectors of units that one register tile covers
//
//   forward (sum, h_prev, cell state in and out) -> h, saved
//   backward(StepValues, carry in and out) -> dsum; a cell state's carry holds what came to it by way of h already
//   hidden  (saved) -> h again, where there is a cell state
//   to_state(StepValues) -> the gradient that comes to what hidden() reads as the cell state by way of h
#pragma once

#include "kernels/activations-inl.h"

namespace fastrnn {
namespace {

enum class Carry { kNone, kCellState, kHidden };

// Gates whose two products are only ever needed added up.
template <int kGates_>
struct AddedGates {
  static constexpr int kGates = kGates_, kSums = kGates_;
  static constexpr int x_sum(int gate) { return gate; }
  static constexpr int h_sum(int gate) { return gate; }
};

// Gates of which the last needs its two products apart: a GRU's sums are r, z, gx_n, gh_n.
template <int kGates_>
struct LastGateApart {
  static constexpr int kGates = kGates_, kSums = kGates_ + 1;
  static constexpr int x_sum(int gate) { return gate; }
  static constexpr int h_sum(int gate) { return gate == kGates - 1 ? kGates : gate; }
};

template <class Cell>
constexpr int kRoomForSaved = Cell::kSaved > 0 ? Cell::kSaved : 1;

// Saved values where states may stay. Those of the cell belong to its new states; then the cell state that the next
// step finds is not among them, nor is y the h from which a derivative follows.
template <class Cell>
constexpr int kSavedByZoneout = Cell::kCellState >= 0 || Cell::kReadsOutput;

template <class T, class Cell>
struct StepValues {
  Vec<T> saved[kRoomForSaved<Cell>];
  Vec<T> h_prev, cell_state_prev, h, dh;
};

template <bool kTanh>
struct Rnn {
  using Gates = AddedGates<1>;
  static constexpr const char* kName = kTanh ? "rnn_tanh" : "rnn_relu";
  static constexpr int kSaved = 0, kCellState = -1, kUnitVectors = 4;
  static constexpr bool kReadsHidden = false, kReadsOutput = true, kProjectable = false;
  static constexpr Carry kCarry = Carry::kNone;

  template <class T>
  static FASTRNN_INLINE Vec<T> forward(const Vec<T>* sum, Vec<T>, Vec<T>&, Vec<T>*) {
    return kTanh ? tanh<T>(sum[0]) : relu<T>(sum[0]);
  }

  template <class T>
  static FASTRNN_INLINE void backward(const StepValues<T, Rnn>& at, Vec<T>&, Vec<T>* dsum) {
    dsum[0] = at.dh * (kTanh ? d_tanh<T>(at.h) : d_relu<T>(at.h));
  }
};

struct Lstm {
  using Gates = AddedGates<4>;
  static constexpr const char* kName = "lstm";
  static constexpr int kSaved = 5, kCellState = 4, kUnitVectors = 1;
  static constexpr bool kReadsHidden = false, kReadsOutput = false, kProjectable = true;
  static constexpr Carry kCarry = Carry::kCellState;

  template <class T>
  static FASTRNN_INLINE Vec<T> forward(const Vec<T>* sum, Vec<T>, Vec<T>& c, Vec<T>* saved) {
    const Vec<T> i = sigmoid<T>(sum[0]);
    const Vec<T> f = sigmoid<T>(sum[1]);
    const Vec<T> g = tanh<T>(sum[2]);
    const Vec<T> o = sigmoid<T>(sum[3]);
    c = f * c + i * g;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o, saved[4] = c;
    return o * tanh<T>(c);
  }

  template <class T>
  static FASTRNN_INLINE Vec<T> hidden(const Vec<T>* saved) {
    return saved[3] * tanh<T>(saved[4]);
  }

  template <class T>
  static FASTRNN_INLINE Vec<T> to_state(const StepValues<T, Lstm>& at) {
    return at.dh * at.saved[3] * d_tanh<T>(tanh<T>(at.saved[4]));
  }

  template <class T>
  static FASTRNN_INLINE void backward(const StepValues<T, Lstm>& at, Vec<T>& dc, Vec<T>* dsum) {
    const Vec<T> i = at.saved[0], f = at.saved[1], g = at.saved[2], o = at.saved[3];
    const Vec<T> tanh_c = tanh<T>(at.saved[4]);
    dsum[0] = dc * g * d_sigmoid<T>(i);
    dsum[1] = dc * at.cell_state_prev * d_sigmoid<T>(f);
    dsum[2] = dc * i * d_tanh<T>(g);
    dsum[3] = at.dh * tanh_c * d_sigmoid<T>(o);
    dc = dc * f;
  }
};

struct Gru {
  using Gates = LastGateApart<3>;
  static constexpr const char* kName = "gru";
  static constexpr int kSaved = 4, kCellState = -1, kUnitVectors = 1;
  static constexpr bool kReadsHidden = true, kReadsOutput = false, kProjectable = false;
  static constexpr Carry kCarry = Carry::kHidden;

  template <class T>
  static FASTRNN_INLINE Vec<T> forward(const Vec<T>* sum, Vec<T> h_prev, Vec<T>&, Vec<T>* saved) {
    const Vec<T> r = sigmoid<T>(sum[0]);
    const Vec<T> z = sigmoid<T>(sum[1]);
    const Vec<T> n = tanh<T>(sum[2] + r * sum[3]);
    saved[0] = r, saved[1] = z, saved[2] = n, saved[3] = sum[3];
    return n + z * (h_prev - n);
  }

  template <class T>
  static FASTRNN_INLINE void backward(const StepValues<T, Gru>& at, Vec<T>& dh_direct, Vec<T>* dsum) {
    const Vec<T> r = at.saved[0], z = at.saved[1], n = at.saved[2], gh_n = at.saved[3];
    const Vec<T> dh = at.dh + dh_direct;
    const Vec<T> dn = dh * (1 - z) * d_tanh<T>(n);
    dsum[0] = dn * gh_n * d_sigmoid<T>(r);
    dsum[1] = dh * (at.h_prev - n) * d_sigmoid<T>(z);
    dsum[2] = dn;
    dsum[3] = dn * r;
    dh_direct = dh * z;
  }
};

struct Cifg {
  using Gates = AddedGates<3>;
  static constexpr const char* kName = "cifg";
  static constexpr int kSaved = 4, kCellState = 3, kUnitVectors = 1;
  static constexpr bool kReadsHidden = false, kReadsOutput = false, kProjectable = true;
  static constexpr Carry kCarry = Carry::kCellState;

  template <class T>
  static FASTRNN_INLINE Vec<T> forward(const Vec<T>* sum, Vec<T>, Vec<T>& c, Vec<T>* saved) {
    const Vec<T> f = sigmoid<T>(sum[0]);
    const Vec<T> g = tanh<T>(sum[1]);
    const Vec<T> o = sigmoid<T>(sum[2]);
    c = f * c + (1 - f) * g;
    saved[0] = f, saved[1] = g, saved[2] = o, saved[3] = c;
    return o * tanh<T>(c);
  }

  template <class T>
  static FASTRNN_INLINE Vec<T> hidden(const Vec<T>* saved) {
    return saved[2] * tanh<T>(saved[3]);
  }

  template <class T>
  static FASTRNN_INLINE Vec<T> to_state(const StepValues<T, Cifg>& at) {
    return at.dh * at.saved[2] * d_tanh<T>(tanh<T>(at.saved[3]));
  }

  template <class T>
  static FASTRNN_INLINE void backward(const StepValues<T, Cifg>& at, Vec<T>& dc, Vec<T>* dsum) {
    const Vec<T> f = at.saved[0], g = at.saved[1], o = at.saved[2];
    const Vec<T> tanh_c = tanh<T>(at.saved[3]);
    dsum[0] = dc * (at.cell_state_prev - g) * d_sigmoid<T>(f);
    dsum[1] = dc * (1 - f) * d_tanh<T>(g);
    dsum[2] = at.dh * tanh_c * d_sigmoid<T>(o);
    dc = dc * f;
  }
};

template <class...>
struct TypeList {};

// Every cell; its position here is its CellKind.
using Cells = TypeList<Rnn<true>, Rnn<false>, Lstm, Gru, Cifg>;

}  // namespace
}  // namespace fastrnn
