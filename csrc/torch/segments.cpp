#include "torch/segments.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "torch/tensors.h"

namespace fastrnn {
namespace {

using at::Tensor;
using Index = std::vector<int64_t>;

// Rows of a tensor [members, rows, width] of whatever shape; undefined: zeros.
struct Source {
  Tensor tensor;
  int64_t rows;
};

// New rows [members, index, width], as `shape`: row i is that of number index[i] in the sources one after another, zero
// for a negative one.
Tensor take_rows(std::initializer_list<Source> sources, const Index& index, int64_t members, at::IntArrayRef shape,
                 at::ScalarType type) {
  Tensor out = allocate(shape, type);
  const int64_t width = shape.back() * out.element_size(), count = int64_t(index.size());
  struct Rows {
    const char* first;
    int64_t rows;
  };
  std::vector<Tensor> kept;
  std::vector<Rows> from;
  for (const Source& s : sources) {
    kept.push_back(s.tensor.defined() ? s.tensor.to(type).contiguous() : Tensor());
    from.push_back({s.tensor.defined() ? static_cast<const char*>(kept.back().const_data_ptr()) : nullptr, s.rows});
  }
  char* const to = static_cast<char*>(out.mutable_data_ptr());
  constexpr int64_t kGrain = 1 << 16;  // bytes that are worth a thread
  at::parallel_for(0, members * count, std::max<int64_t>(1, kGrain / std::max<int64_t>(width, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const int64_t member = i / count;
                       int64_t row = index[i % count];
                       const char* found = nullptr;
                       for (const Rows& source : from) {
                         if (row < 0) break;
                         if (row < source.rows) {
                           if (source.first) found = source.first + (member * source.rows + row) * width;
                           break;
                         }
                         row -= source.rows;
                       }
                       if (found)
                         std::memcpy(to + i * width, found, width);
                       else
                         std::memset(to + i * width, 0, width);
                     }
                   });
  return out;
}

// Where the segments of a batch are, and what of the packed batch belongs to what of the call's. A direction enters a
// segment at its first step or, the second, at its last.
class Segments {
 public:
  Segments(const Layer& layer, const Call& call) : T_(layer.n.T), B_(layer.n.B), D_(layer.n.D) {
    TORCH_CHECK(!call.batch_sizes.defined() && !layer.options.one_step(),
                "fastrnn: expected lengths and reset of an input of 3 dimensions, got ",
                call.batch_sizes.defined() ? "a packed one" : "a single step");
    const Index ends = read_lengths(call.lengths);
    const Tensor marks = read_reset(call);
    check_reset_state(layer, call);
    const bool* reset = marks.defined() ? marks.const_data_ptr<bool>() : nullptr;
    begun_anew_.assign(B_, false);
    first_.assign(B_, -1), last_.assign(B_, -1);
    std::vector<Segment> found;
    for (int64_t b = 0; b < B_; ++b) {
      begun_anew_[b] = reset && reset[b];
      for (int64_t begin = 0; begin < ends[b];) {
        int64_t end = begin + 1;
        while (end < ends[b] && !(reset && reset[end * B_ + b])) ++end;
        found.push_back({b, begin, end});
        begin = end;
      }
    }
    order(found);
    for (int64_t s = 0; s < count(); ++s) {
      const Segment& at = segments_[s];
      if (at.begin == 0) first_[at.row] = s;
      if (at.end == ends[at.row]) last_[at.row] = s;
    }
  }

  int64_t count() const { return int64_t(segments_.size()); }
  int64_t rows() const { return int64_t(place_.size()); }  // over all steps of the packed batch
  const Tensor& batch_sizes() const { return batch_sizes_; }

  // For each row of the packed batch its number in a sequence of the call, step by step or sequence by sequence.
  Index to_packed(bool by_sequence) const {
    if (!by_sequence) return place_;
    Index out;
    for (const int64_t place : place_) out.push_back(place % B_ * T_ + place / B_);
    return out;
  }
  // For each row of a sequence, step by step, its number in the packed batch, or -1.
  Index from_packed() const {
    Index out(T_ * B_, -1);
    for (int64_t k = 0; k < rows(); ++k) out[place_[k]] = k;
    return out;
  }
  // The same for tensors with directions in front.
  Index in_directions(const Index& of_one, int64_t rows_of_one) const {
    Index out;
    for (int64_t d = 0; d < D_; ++d)
      for (const int64_t row : of_one) out.push_back(row < 0 ? -1 : d * rows_of_one + row);
    return out;
  }

  // Initial states of the segments [D, S], from those of the call [D, B] and behind them those of a reset.
  Index initial(bool by_step) const {
    return for_each_segment([&](int64_t d, int64_t s) {
      const int64_t row = segments_[s].row;
      return anew(d, s) ? D_ * B_ + reset_row(d, s, by_step) : d * B_ + row;
    });
  }
  // Final states of the call [D, B], from those of the segments and behind them the initial ones of the call.
  Index final() const {
    return for_each_row([&](int64_t d, int64_t b) {
      const int64_t s = leaves(d, b);
      return s < 0 ? D_ * count() + d * B_ + b : d * count() + s;
    });
  }
  // Gradients of the segments' final states, from those of the call.
  Index final_gradient() const {
    return for_each_segment([&](int64_t d, int64_t s) {
      const int64_t row = segments_[s].row;
      return leaves(d, row) == s ? d * B_ + row : -1;
    });
  }
  // Gradients of the call's initial states, from those of the segments and behind them those of the call's final ones.
  Index initial_gradient() const {
    return for_each_row([&](int64_t d, int64_t b) {
      const int64_t s = d == 0 ? first_[b] : last_[b];
      if (s < 0) return D_ * count() + d * B_ + b;
      return anew(d, s) ? -1 : d * count() + s;
    });
  }
  // Gradients of the states of a reset at every step [D, T, B], from those of the segments.
  Index reset_gradient() const {
    Index out(D_ * T_ * B_, -1);
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t s = 0; s < count(); ++s)
        if (anew(d, s)) out[reset_row(d, s, true)] = d * count() + s;
    return out;
  }
  // The segments of both directions that begin with a reset, and the rows [D, B] whose state they begin with.
  std::pair<Index, Index> begun_anew() const {
    std::pair<Index, Index> out;
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t s = 0; s < count(); ++s)
        if (anew(d, s)) out.first.push_back(d * count() + s), out.second.push_back(reset_row(d, s, false));
    return out;
  }

 private:
  struct Segment {
    int64_t row, begin, end;
    int64_t length() const { return end - begin; }
  };

  Index read_lengths(const Tensor& lengths) const {
    if (!lengths.defined()) return Index(B_, T_);
    TORCH_CHECK(lengths.dim() == 1 && lengths.size(0) == B_ && at::isIntegralType(lengths.scalar_type(), false) &&
                    lengths.is_cpu(),
                "fastrnn: expected lengths to be integers [", B_, "] on the CPU, got ", lengths.scalar_type(), " ",
                lengths.sizes(), " on ", lengths.device());
    const Tensor as_long = lengths.to(at::kLong).contiguous();
    const int64_t* length = as_long.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < B_; ++b)
      TORCH_CHECK(0 <= length[b] && length[b] <= T_, "fastrnn: expected lengths from 0 to ", T_, ", got ", length[b],
                  " of row ", b);
    return {length, length + B_};
  }

  // [T, B], or undefined.
  Tensor read_reset(const Call& call) const {
    if (!call.reset.defined()) return {};
    const Tensor &reset = call.reset, by_step = call.batch_first && reset.dim() == 2 ? reset.t() : reset;
    TORCH_CHECK(by_step.sizes() == at::IntArrayRef({T_, B_}) && reset.scalar_type() == at::kBool && reset.is_cpu(),
                "fastrnn: expected reset to be bool ", call.batch_first ? "[B, T]" : "[T, B]", ", of ", T_,
                " steps and ", B_, " rows, on the CPU, got ", reset.scalar_type(), " ", reset.sizes(), " on ",
                reset.device());
    return by_step.contiguous();
  }

  void check_reset_state(const Layer& layer, const Call& call) const {
    if (call.reset_state.empty()) return;
    TORCH_CHECK(call.reset.defined() && int(call.reset_state.size()) == layer.facts.states, "fastrnn: expected ",
                layer.facts.states, " states for a reset, and a reset, got ", call.reset_state.size(),
                call.reset.defined() ? "" : " without one");
    for (int i = 0; i < layer.facts.states; ++i) {
      const Tensor& t = call.reset_state[i];
      const Extent once = layer.state_extent(i), by_step = layer.extent({D_, T_, B_, once.back()});
      const bool same_form = t.dim() == call.reset_state[0].dim();
      TORCH_CHECK((t.sizes() == at::IntArrayRef(once) || t.sizes() == at::IntArrayRef(by_step)) && same_form &&
                      t.scalar_type() == call.x.scalar_type() && t.device() == call.x.device(),
                  "fastrnn: expected reset_state[", i, "] of shape ", at::IntArrayRef(once), " or, for every step, ",
                  at::IntArrayRef(by_step), " as ", call.x.scalar_type(), " like the input, got ", t.scalar_type(), " ",
                  t.sizes());
    }
  }

  // The longest first, and their rows step by step.
  void order(const std::vector<Segment>& found) {
    int64_t longest = 0;
    for (const Segment& s : found) longest = std::max(longest, s.length());
    Index active(longest, 0);  // first how many segments end after a step, then how many have it
    for (const Segment& s : found) ++active[s.length() - 1];
    for (int64_t t = longest - 2; t >= 0; --t) active[t] += active[t + 1];
    Index next(longest + 1, 0);  // the next place of a segment by its length: behind all that are longer
    for (int64_t length = 1; length < longest; ++length) next[length] = active[length];
    segments_.resize(found.size());
    for (const Segment& s : found) segments_[next[s.length()]++] = s;
    batch_sizes_ = at::empty({longest}, at::kLong);
    std::copy(active.begin(), active.end(), batch_sizes_.mutable_data_ptr<int64_t>());
    for (int64_t t = 0; t < longest; ++t)
      for (int64_t s = 0; s < active[t]; ++s) place_.push_back((segments_[s].begin + t) * B_ + segments_[s].row);
  }

  // A direction begins a segment with the state of a reset, not with the call's initial one.
  bool anew(int64_t d, int64_t s) const {
    const Segment& at = segments_[s];
    return d == 0 ? at.begin > 0 || begun_anew_[at.row] : last_[at.row] != s;
  }
  // The segment by which a direction leaves a row, or -1 for a row without steps.
  int64_t leaves(int64_t d, int64_t row) const { return d == 0 ? last_[row] : first_[row]; }

  int64_t reset_row(int64_t d, int64_t s, bool by_step) const {
    const Segment& at = segments_[s];
    const int64_t t = d == 0 ? at.begin : at.end - 1;
    return by_step ? (d * T_ + t) * B_ + at.row : d * B_ + at.row;
  }

  template <class F>
  Index for_each_segment(F f) const {
    Index out;
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t s = 0; s < count(); ++s) out.push_back(f(d, s));
    return out;
  }
  template <class F>
  Index for_each_row(F f) const {
    Index out;
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t b = 0; b < B_; ++b) out.push_back(f(d, b));
    return out;
  }

  int64_t T_, B_, D_;
  std::vector<Segment> segments_;
  Index first_, last_;  // of each row, or -1
  std::vector<bool> begun_anew_;
  Index place_;
  Tensor batch_sizes_;
};

// A call, its segments, and the call on the packed batch of these.
class Packing {
 public:
  Packing(const Layer& layer, const Call& call)
      : call_(call),
        n_(layer.n),
        facts_(layer.facts),
        layer_(layer),
        type_(call.x.scalar_type()),
        segments_(layer, call) {
    packed_ = call;
    packed_.lengths = packed_.reset = Tensor(), packed_.reset_state.clear();
    packed_.batch_first = false, packed_.batch_sizes = segments_.batch_sizes();
    const Tensor by_step = layer.swapped(call.x);
    const bool by_sequence = !by_step.is_contiguous() && by_step.transpose(-3, -2).is_contiguous();
    packed_.x = take_rows({{by_sequence ? by_step.transpose(-3, -2) : by_step, n_.T * n_.B}},
                          segments_.to_packed(by_sequence), layer.members, extent({segments_.rows(), n_.I}), type_);
    packed_.h_0 = initial(0);
    if (facts_.states > 1) packed_.c_0 = initial(1);
  }

  bool empty() const { return segments_.rows() == 0; }
  const Call& packed() const { return packed_; }
  const Call& call() const { return call_; }
  const Segments& segments() const { return segments_; }
  bool has_state() const { return packed_.h_0.defined(); }

  // A row per segment and step, in place of one per row and step of the call.
  Tensor sequence_to_packed(const Tensor& t) const {
    return take({{layer_.swapped(t), n_.T * n_.B}}, segments_.to_packed(false), {segments_.rows(), t.size(-1)});
  }
  Tensor sequence_from_packed(const Tensor& t) const {
    const Tensor out = take({{t, segments_.rows()}}, segments_.from_packed(), {n_.T, n_.B, t.size(-1)});
    return layer_.swapped(out);
  }
  Tensor every_state_to_packed(const Tensor& t) const {
    return take({{t, n_.D * n_.T * n_.B}}, segments_.in_directions(segments_.to_packed(false), n_.T * n_.B),
                {n_.D, segments_.rows(), t.size(-1)});
  }
  Tensor every_state_from_packed(const Tensor& t) const {
    return take({{t, n_.D * segments_.rows()}}, segments_.in_directions(segments_.from_packed(), segments_.rows()),
                {n_.D, n_.T, n_.B, t.size(-1)});
  }
  Tensor final_state(const Tensor& of_segments, int state) const {
    const States given = call_.state();
    const Tensor initial = given.empty() ? Tensor() : given[state];
    return take({{of_segments, n_.D * segments_.count()}, {initial, n_.D * n_.B}}, segments_.final(),
                {n_.D, n_.B, layer_.state_extent(state).back()});
  }
  Tensor final_gradient(const Tensor& of_call) const {
    if (!of_call.defined()) return {};
    return take({{of_call, n_.D * n_.B}}, segments_.final_gradient(), {n_.D, segments_.count(), of_call.size(-1)});
  }
  Tensor initial_gradient(const Tensor& of_segments, const Tensor& of_final, int state) const {
    return take({{of_segments, n_.D * segments_.count()}, {of_final, n_.D * n_.B}}, segments_.initial_gradient(),
                {n_.D, n_.B, layer_.state_extent(state).back()});
  }
  Tensor reset_gradient(const Tensor& of_segments, const Tensor& reset_state) const {
    if (resets_by_step())
      return take({{of_segments, n_.D * segments_.count()}}, segments_.reset_gradient(),
                  at::IntArrayRef(reset_state.sizes()).slice(layer_.has_members));
    // Several segments of a row begin with the same state.
    const auto [from, to] = segments_.begun_anew();
    const Tensor terms =
        take({{of_segments, n_.D * segments_.count()}}, from, {int64_t(from.size()), reset_state.size(-1)});
    Tensor sum = at::zeros(extent({n_.D * n_.B, reset_state.size(-1)}), terms.options());
    sum.index_add_(layer_.has_members, at::tensor(to, at::kLong), terms);
    return sum.view(reset_state.sizes());
  }
  // The first elements of a buffer for all steps, which has room for all that there may be.
  Tensor saved_of_packed(const Tensor& saved) const {
    const Extent shape = extent({n_.D, segments_.rows(), saved.size(-1)});
    return saved.contiguous().view(-1).narrow(0, 0, c10::multiply_integers(shape)).view(shape);
  }

 private:
  bool resets_by_step() const {
    return !call_.reset_state.empty() && call_.reset_state[0].dim() == 4 + layer_.has_members;
  }
  Extent extent(at::IntArrayRef of_member) const { return layer_.extent(of_member); }
  Tensor take(std::initializer_list<Source> sources, const Index& index, at::IntArrayRef of_member) const {
    return take_rows(sources, index, layer_.members, extent(of_member), type_);
  }

  // Undefined for zeros throughout.
  Tensor initial(int state) const {
    const States given = call_.state();
    if (given.empty() && call_.reset_state.empty()) return {};
    const Tensor of_call = given.empty() ? Tensor() : given[state];
    const bool resets = !call_.reset_state.empty();
    return take({{of_call, n_.D * n_.B},
                 {resets ? call_.reset_state[state] : Tensor(), n_.D * n_.B * (resets_by_step() ? n_.T : 1)}},
                segments_.initial(resets_by_step()), {n_.D, segments_.count(), layer_.state_extent(state).back()});
  }

  const Call& call_;
  const Sizes& n_;
  const CellFacts& facts_;
  const Layer& layer_;
  at::ScalarType type_;
  Segments segments_;
  Call packed_;
};

}  // namespace

Output segmented_forward(const Layer& layer, const Call& call, Tensor& saved, bool every_state,
                         const PackedForward& run) {
  const Packing p(layer, call);
  const int states = layer.facts.states;
  Output of_segments;
  if (!p.empty()) {
    Tensor of_packed = saved.defined() ? p.saved_of_packed(saved) : Tensor();
    of_segments = run(p.packed(), of_packed);
  } else {
    of_segments.y = zeros(layer.extent(at::IntArrayRef{0, layer.n.D * layer.n.P}), call.x.scalar_type());
    of_segments.final_state.resize(states + (every_state && states > 1));
  }
  Output out;
  out.y = p.sequence_from_packed(of_segments.y);
  for (int i = 0; i < states; ++i) out.final_state.push_back(p.final_state(of_segments.final_state[i], i));
  if (every_state && states > 1) {
    const Tensor& every = of_segments.final_state[states];
    out.final_state.push_back(every.defined() ? p.every_state_from_packed(every)
                                              : zeros(layer.every_state_extent(), call.x.scalar_type()));
  }
  return out;
}

Tensors segmented_backward(const Call& call, const Backward& given) {
  const States state = call.state();
  const Layer layer(call.x, state, call.weights, call.options());
  const Packing p(layer, call);
  const size_t states = layer.facts.states, first_weight = 1 + state.size(), weights = call.weights.size();
  const size_t first_reset = first_weight + weights;
  TORCH_CHECK(given.needed.size() == first_reset + call.reset_state.size(), "fastrnn: expected ",
              first_reset + call.reset_state.size(), " flags in needed, got ", given.needed.size());
  TORCH_CHECK_NOT_IMPLEMENTED(given.samples == 1,
                              "fastrnn: expected neither lengths nor reset beside gradients by sample");
  check_state_gradients(given.dstate, layer.facts);
  const auto needs = [&](size_t first, size_t i, size_t size) { return i < size && given.needed[first + i]; };

  // Of the packed call: x, its states where it has any, weights.
  Backward packed;
  packed.needed.push_back(given.needed[0]);
  for (size_t i = 0; i < states && p.has_state(); ++i)
    packed.needed.push_back(needs(1, i, state.size()) || needs(first_reset, i, call.reset_state.size()));
  packed.needed.insert(packed.needed.end(), given.needed.begin() + first_weight, given.needed.begin() + first_reset);
  Tensors found;
  if (!p.empty()) {
    if (given.dy.defined()) packed.dy = p.sequence_to_packed(given.dy);
    for (size_t i = 0; i < states; ++i) packed.dstate.push_back(p.final_gradient(given.dstate[i]));
    if (given.dstate.size() > states)
      packed.dstate.push_back(given.dstate[states].defined() ? p.every_state_to_packed(given.dstate[states])
                                                             : Tensor());
    packed.y = p.sequence_to_packed(given.y);
    packed.saved = p.saved_of_packed(given.saved);
    found = backward(p.packed(), packed);
  }
  // Of what was not asked for, and of a batch without steps, nothing has been found.
  size_t next = 0;
  const auto take = [&](size_t i) {
    return packed.needed[i] && next < found.size() ? std::move(found[next++]) : Tensor();
  };
  const at::ScalarType type = call.x.scalar_type();
  Tensors out;
  const Tensor dx = take(0);
  if (given.needed[0]) out.push_back(dx.defined() ? p.sequence_from_packed(dx) : at::zeros_like(call.x));
  Tensors dinitial(states);
  for (size_t i = 0; i < states && p.has_state(); ++i) dinitial[i] = take(1 + i);
  for (size_t i = 0; i < state.size(); ++i)
    if (given.needed[1 + i]) out.push_back(p.initial_gradient(dinitial[i], given.dstate[i], int(i)));
  for (size_t i = 0; i < weights; ++i) {
    const Tensor dw = take(packed.needed.size() - weights + i);
    if (given.needed[first_weight + i]) out.push_back(dw.defined() ? dw : zeros(call.weights[i].sizes(), type));
  }
  for (size_t i = 0; i < call.reset_state.size(); ++i)
    if (given.needed[first_reset + i]) out.push_back(p.reset_gradient(dinitial[i], call.reset_state[i]));
  return out;
}

}  // namespace fastrnn
