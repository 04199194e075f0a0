// A layer's options, the shapes of its weights and states, and where the rows of its batch lie.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/arguments.h"

namespace fastrnn {

// The cells that are compiled in, by the names of fastrnn/spec/cell.py.
std::vector<std::string> cell_names();
std::optional<CellKind> find_cell(std::string_view name);
const CellFacts& cell_facts(CellKind kind);

// How the rows of a layer lie in x: [T, B, I], [B, T, I], packed [N, I], or one step [B, I] with states [B, P], [B, H].
enum class Form { kTimeFirst, kBatchFirst, kPacked, kOneStep };

struct LayerOptions {
  CellKind cell;
  Form form;
  int64_t directions;
  bool has_bias;
  bool layer_norm = false;  // then x are the gates' products with it, formed and normalised by the caller
  bool projected = false;

  bool one_step() const { return form == Form::kOneStep; }
  // Weights of a direction, with and without that of a projection.
  int64_t plain_weights() const;
  int64_t weights() const { return plain_weights() + projected; }
  // Where W_hh is among them.
  int64_t w_hh() const { return layer_norm ? 0 : 1; }
};

// Those of a layer that has `weights` for all its directions: projected if there are more than it needs without.
LayerOptions layer_options(CellKind cell, Form form, int64_t directions, bool has_bias, bool layer_norm,
                           int64_t weights);

// Values per unit and step that forward saves.
inline int64_t saved_values(const CellFacts& facts, bool zoneout, bool layer_norm) {
  return facts.saved + (zoneout ? facts.saved_by_zoneout : 0) + (layer_norm ? facts.gates : 0);
}

struct Shape {
  const char* name;
  int dims;
  int64_t size[3];
};

template <int kMost>
struct Shapes {
  Shape shapes[kMost];
  int count;

  const Shape& operator[](int i) const { return shapes[i]; }
  const Shape* begin() const { return shapes; }
  const Shape* end() const { return shapes + count; }
};

// Of one direction, in the order of Weights. Of the sizes, I, H and P count.
using WeightShapes = Shapes<6>;
WeightShapes weight_shapes(const LayerOptions& options, const Sizes& n);
// h and, for a cell with a state of its own, that. Of the sizes, D, B, H and P count.
Shapes<2> state_shapes(const LayerOptions& options, const Sizes& n);

// Owns what Rows points to; on the heap from some steps on only, which a single step would notice.
class BatchRows {
 public:
  // T steps of B rows, step by step; those of x may be sequence by sequence.
  void set_dense(int64_t T, int64_t B, bool x_by_sequence);
  // N rows in steps of batch_sizes[T], of a batch of B. Gives what is wrong with them, or nothing.
  std::string set_packed(const int64_t* batch_sizes, int64_t T, int64_t B, int64_t N);
  // Of a packed batch: its rows are at these places of x and of y, [N] each.
  void set_places(std::vector<int64_t> of_x, std::vector<int64_t> of_y);

  Rows rows() const { return {first(), first() + T_, 1, place_of(y_places_)}; }
  Rows x_rows() const {
    return {first() + (x_by_sequence_ ? 2 * T_ : 0), first() + T_, x_by_sequence_ ? T_ : 1, place_of(x_places_)};
  }

 private:
  static constexpr int64_t kShort = 16;

  static const int64_t* place_of(const std::vector<int64_t>& places) {
    return places.empty() ? nullptr : places.data();
  }
  int64_t* first() { return long_ ? long_.get() : short_; }
  const int64_t* first() const { return long_ ? long_.get() : short_; }
  void resize(int64_t T);

  int64_t T_ = 0;
  bool x_by_sequence_ = false;
  int64_t short_[3 * kShort];  // first [T], active [T], then first [T] of x where that differs
  std::unique_ptr<int64_t[]> long_;
  std::vector<int64_t> x_places_, y_places_;
};

}  // namespace fastrnn
