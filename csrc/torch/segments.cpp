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

// Rows of a tensor, of whatever dimensions before the last: `count` of them, of each member. Undefined: zeros.
struct Source {
  Tensor tensor;
  int64_t count;
};

class SourceRows {
 public:
  SourceRows(const Source& source, at::ScalarType type) : count(source.count) {
    if (!source.tensor.defined()) return;
    tensor_ = convert(source.tensor, type);
    if (tensor_.stride(-1) != 1) tensor_ = tensor_.contiguous();
  }

  const int64_t count;

  // Null for zeros. A tensor is not made contiguous for this: of states for every step few are read.
  const char* row(int64_t number) const {
    if (!tensor_.defined()) return nullptr;
    int64_t offset = 0;
    for (int64_t dim = tensor_.dim() - 2; dim >= 0; --dim) {
      offset += number % tensor_.size(dim) * tensor_.stride(dim);
      number /= tensor_.size(dim);
    }
    return static_cast<const char*>(tensor_.const_data_ptr()) + offset * tensor_.element_size();
  }

 private:
  Tensor tensor_;
};

// New rows [members, index, width], as `shape`: row i is that of number index[i] in the sources one after another, zero
// for a negative one.
Tensor take_rows(std::initializer_list<Source> sources, const Index& index, int64_t members, at::IntArrayRef shape,
                 at::ScalarType type) {
  Tensor out = allocate(shape, type);
  const int64_t width = shape.back() * out.element_size(), count = int64_t(index.size());
  std::vector<SourceRows> from;
  for (const Source& source : sources) from.emplace_back(source, type);
  const auto find = [&](int64_t member, int64_t number) -> const char* {
    for (const SourceRows& source : from) {
      if (number < 0) break;
      if (number < source.count) return source.row(member * source.count + number);
      number -= source.count;
    }
    return nullptr;
  };
  char* const to = static_cast<char*>(out.mutable_data_ptr());
  constexpr int64_t kGrain = 1 << 16;  // bytes that are worth a thread
  at::parallel_for(0, members * count, std::max<int64_t>(1, kGrain / std::max<int64_t>(width, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const char* row = find(i / count, index[i % count]);
                       if (row)
                         std::memcpy(to + i * width, row, width);
                       else
                         std::memset(to + i * width, 0, width);
                     }
                   });
  return out;
}

// Where the segments of a batch are, and what of them belongs to what of the call. A direction enters a segment at its
// first step or, the second, at its last.
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
  int64_t rows() const { return int64_t(places_.size()); }  // over all steps

  // The segments as the rows of a layer.
  Layer as_rows(const Layer& layer) const {
    Index of_x = places_;
    if (layer.x_by_sequence)
      for (int64_t& place : of_x) place = place % B_ * T_ + place / B_;
    return {layer, active_, std::move(of_x), places_};
  }

  // States after every step [D, T, B], from those of the segments [D, rows()], zero where there are none, and back.
  Index every_state() const {
    Index out(D_ * T_ * B_, -1);
    for (int64_t d = 0; d < D_; ++d)
      for (int64_t k = 0; k < rows(); ++k) out[d * T_ * B_ + places_[k]] = d * rows() + k;
    return out;
  }
  Index every_state_gradient() const {
    Index out;
    for (int64_t d = 0; d < D_; ++d)
      for (const int64_t place : places_) out.push_back(d * T_ * B_ + place);
    return out;
  }

  // Initial states of the segments [D, S], from those of the call [D, B] and behind them those of a reset.
  Index initial(bool by_step) const {
    return for_each_segment([&](int64_t d, int64_t s) {
      const int64_t row = segments_[s].row;
      return anew(d, s) ? D_ * B_ + reset_row(d, s, by_step) : d * B_ + row;
    });
  }
  // The rows [D, B] that the segments [D, S] belong to.
  Index row() const {
    return for_each_segment([&](int64_t d, int64_t s) { return d * B_ + segments_[s].row; });
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
    for (int64_t t = 0; t < longest; ++t)
      for (int64_t s = 0; s < active[t]; ++s) places_.push_back((segments_[s].begin + t) * B_ + segments_[s].row);
    active_ = std::move(active);
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
  Index active_;  // segments by step
  Index places_;  // t * B + b of their steps, in the order of these
};

// The states of a call as those of its segments, and back. Undefined tensors are zeros throughout.
class SegmentStates {
 public:
  SegmentStates(const Layer& layer, const Call& call)
      : call_(call), layer_(layer), n_(layer.n), segments_(layer, call) {}

  Layer as_rows() const { return segments_.as_rows(layer_); }

  // None where all begin with zeros.
  States initial() const {
    const States given = call_.state();
    const bool resets = !call_.reset_state.empty();
    States out;
    if (given.empty() && !resets) return out;
    for (int i = 0; i < layer_.facts.states; ++i) {
      const Source of_call{given.empty() ? Tensor() : given[i], n_.D * n_.B};
      const Source of_reset{resets ? call_.reset_state[i] : Tensor(), n_.D * n_.B * (resets_by_step() ? n_.T : 1)};
      out.push_back(
          take({of_call, of_reset}, segments_.initial(resets_by_step()), {n_.D, segments_.count(), width(i)}));
    }
    return out;
  }
  Noise noise() const {
    Noise out = call_.noise;
    if (out.h_mask.defined())
      out.h_mask = take({{out.h_mask, n_.D * n_.B}}, segments_.row(), {n_.D, segments_.count(), width(0)});
    return out;
  }
  Tensor final(const Tensor& of_segments, int state) const {
    const States given = call_.state();
    const Source initial{given.empty() ? Tensor() : given[state], n_.D * n_.B};
    return take({of(of_segments), initial}, segments_.final(), {n_.D, n_.B, width(state)});
  }
  Tensor every(const Tensor& of_segments) const {
    return take({{of_segments, n_.D * segments_.rows()}}, segments_.every_state(), {n_.D, n_.T, n_.B, n_.H});
  }

  Tensor final_gradient(const Tensor& of_call) const {
    if (!of_call.defined()) return {};
    return take({{of_call, n_.D * n_.B}}, segments_.final_gradient(), {n_.D, segments_.count(), of_call.size(-1)});
  }
  Tensor every_gradient(const Tensor& of_call) const {
    if (!of_call.defined()) return {};
    return take({{of_call, n_.D * n_.T * n_.B}}, segments_.every_state_gradient(), {n_.D, segments_.rows(), n_.H});
  }
  // Rows without steps pass on what came for their final state.
  Tensor initial_gradient(const Tensor& of_segments, const Tensor& of_final, int state) const {
    return take({of(of_segments), {of_final, n_.D * n_.B}}, segments_.initial_gradient(), {n_.D, n_.B, width(state)});
  }
  Tensor reset_gradient(const Tensor& of_segments, int state) const {
    const Tensor& given = call_.reset_state[state];
    if (resets_by_step()) return take({of(of_segments)}, segments_.reset_gradient(), {n_.D, n_.T, n_.B, width(state)});
    // Several segments of a row begin with the same state.
    const auto [from, to] = segments_.begun_anew();
    const Tensor terms = take({of(of_segments)}, from, {int64_t(from.size()), width(state)});
    Tensor sum = at::zeros(layer_.extent({n_.D * n_.B, width(state)}), terms.options());
    return sum.index_add_(layer_.has_members, at::tensor(to, at::kLong), terms).view(given.sizes());
  }

 private:
  bool resets_by_step() const {
    return !call_.reset_state.empty() && call_.reset_state[0].dim() == 4 + layer_.has_members;
  }
  int64_t width(int state) const { return layer_.state_extent(state).back(); }
  Source of(const Tensor& of_segments) const { return {of_segments, n_.D * segments_.count()}; }
  Tensor take(std::initializer_list<Source> sources, const Index& index, at::IntArrayRef of_member) const {
    return take_rows(sources, index, layer_.members, layer_.extent(of_member), call_.x.scalar_type());
  }

  const Call& call_;
  const Layer& layer_;
  const Sizes& n_;
  const Segments segments_;
};

}  // namespace

Output segmented_forward(const Layer& layer, const Call& call, const SegmentsForward& run) {
  const SegmentStates states(layer, call);
  Output out = run(states.as_rows(), states.initial(), states.noise());
  for (size_t i = 0; i < out.final_state.size(); ++i) {
    Tensor& s = out.final_state[i];
    s = int(i) < layer.facts.states ? states.final(s, int(i)) : states.every(s);
  }
  return out;
}

Tensors segmented_backward(const Layer& layer, const Call& call, const Backward& given) {
  TORCH_CHECK_NOT_IMPLEMENTED(given.samples == 1,
                              "fastrnn: expected neither lengths nor reset beside gradients by sample");
  check_state_gradients(given.dstate, layer.facts);
  const size_t states = layer.facts.states, given_states = call.state().size(), weights = call.weights.size();
  const size_t first_weight = 1 + given_states, first_reset = first_weight + weights;
  TORCH_CHECK(given.needed.size() == first_reset + call.reset_state.size(), "fastrnn: expected ",
              first_reset + call.reset_state.size(), " flags in needed, got ", given.needed.size());
  const SegmentStates mapped(layer, call);
  const States initial = mapped.initial();

  Backward of_segments{given.dy, {}, given.y, given.saved, {given.needed[0]}};
  for (size_t i = 0; i < given.dstate.size(); ++i)
    of_segments.dstate.push_back(i < states ? mapped.final_gradient(given.dstate[i])
                                            : mapped.every_gradient(given.dstate[i]));
  const auto needs = [&](size_t first, size_t i, size_t size) { return i < size && given.needed[first + i]; };
  for (size_t i = 0; i < initial.size(); ++i)
    of_segments.needed.push_back(needs(1, i, given_states) || needs(first_reset, i, call.reset_state.size()));
  for (size_t i = 0; i < weights; ++i) of_segments.needed.push_back(given.needed[first_weight + i]);

  Tensors found = backward(mapped.as_rows(), call.x, initial, call.weights, mapped.noise(), of_segments);
  size_t next = 0;
  const auto take = [&](size_t i) { return of_segments.needed[i] ? std::move(found[next++]) : Tensor(); };
  const Tensor dx = take(0);
  Tensors out, dinitial(states);
  if (dx.defined()) out.push_back(dx);
  for (size_t i = 0; i < initial.size(); ++i) dinitial[i] = take(1 + i);
  for (size_t i = 0; i < given_states; ++i)
    if (given.needed[1 + i]) out.push_back(mapped.initial_gradient(dinitial[i], given.dstate[i], int(i)));
  while (next < found.size()) out.push_back(std::move(found[next++]));
  for (size_t i = 0; i < call.reset_state.size(); ++i)
    if (given.needed[first_reset + i]) out.push_back(mapped.reset_gradient(dinitial[i], int(i)));
  return out;
}

}  // namespace fastrnn
