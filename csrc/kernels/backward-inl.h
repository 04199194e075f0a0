// A layer's backward pass. Steps are taken in chunks: the time loop leaves the gradients of a chunk's gate sums, in L2
// unless a single step has more rows than that holds, and the weight and input gradients are products over them at
// once. No atomics, so results are reproducible. T and Q as in forward; the gradients of gate sums are Q.
#pragma once

#include "kernels/backward-step-inl.h"

namespace fastrnn {
namespace {

template <class T, class Q, class Cell>
class LayerBackward {
  using Gates = typename Cell::Gates;

 public:
  LayerBackward(const BackwardArgs<T>& args, const Plan& plan, Team team, char* workspace)
      : a_(args),
        n_(args.sizes),
        plan_(plan),
        team_(team),
        share_(plan, args.sizes, team),
        arena_{workspace},
        steps_(args, plan, share_, team.rank, arena_) {
    for (int64_t d = 0; gives_inputs() && d < n_.D; ++d)
      w_ih_[d] = RightWeight<T, Q>(args.weights[d].w_ih, Gates::kGates, n_.H, n_.I, plan.direct_backward, arena_);
    // The second direction's input gradient, where the first writes its own beside it.
    if (gives_inputs() && n_.D == 2) other_dx_ = take<Real<T>>(n_.N * n_.I);
    chunk_rows_ = larger(plan.chunk_rows, steps_.part_rows());
    rows_ = take_for_each(plan.directions_at_once * plan.row_parts, share_.rows_owner, [&] {
      ChunkRows<Q> r;
      r.dsums = take<Q>(dsums_rows() * steps_.dsums_ld());
      if (args.weights[0].w_hr)
        r.dh = take<Q>((chunk_rows_ + kSpareRows<Q>)*steps_.dh_ld()), r.h = take<Q>(chunk_rows_ * n_.H);
      return r;
    });
    thread_ = take_for_each(plan.threads, team.rank, [&] {
      ThreadBuffers b;
      b.products = ChunkGradients<T, Q, Gates>(n_, plan.matrix_gradients, share_.unit_part, plan.unit_parts);
      b.products.take_buffers(chunk_rows_, arena_);
      b.numbers = take<int64_t>(chunk_rows_);
      b.inputs = take<const T*>(chunk_rows_);
      b.previous = take<const T*>(chunk_rows_);
      if (args.h_mask) b.masked = take<T>(chunk_rows_ * n_.P);
      return b;
    });
    // The first part of the rows writes into the results, every other one beside them.
    for (int64_t d = 0; d < n_.D; ++d) {
      gradients_[d] = a_.gradients[d];
      for (int part = 1; part < plan.row_parts; ++part) {
        const int64_t before = arena_.used;
        const WeightGradients<Real<T>> w = private_gradients(a_.gradients[d]);
        if (part == 1) second_part_[d] = w, private_size_[d] = (arena_.used - before) / int64_t(sizeof(Real<T>));
        if (part == share_.row_part) gradients_[d] = w;
      }
    }
  }

  int64_t workspace() const { return arena_.used; }

  void run() {
    pack();
    wait(team_.barriers, team_.size, team_.place);
    for (int64_t d = share_.directions.begin; d < share_.directions.end; ++d) run_direction(d);
    wait(team_.barriers, team_.size, team_.place);
    reduce();
  }

 private:
  template <class U>
  U* take(int64_t elements) {
    return arena_.template take<U>(elements);
  }

  struct ThreadBuffers {
    ChunkGradients<T, Q, Gates> products;
    // For each row of the chunk its number, its input, and the hidden state before it.
    int64_t* numbers = nullptr;
    const T **inputs = nullptr, **previous = nullptr;
    T* masked = nullptr;  // the latter, where they are masked
  };
  // A normalised layer's steps write those of its gates, which are its inputs.
  bool gives_inputs() const { return a_.dx && !a_.weights[0].ln_hh; }
  int64_t dsums_rows() const { return steps_.part_rows() + chunk_rows_ + kSpareRows<Q>; }

  WeightGradients<Real<T>> private_gradients(const WeightGradients<Real<T>>& of) {
    const int64_t gates = Gates::kGates * n_.H;
    WeightGradients<Real<T>> w{};
    if (of.w_ih) w.w_ih = take<Real<T>>(gates * n_.I);
    if (of.w_hh) w.w_hh = take<Real<T>>(gates * n_.P);
    if (of.b_ih) w.b_ih = take<Real<T>>(gates);
    if (of.b_hh) w.b_hh = take<Real<T>>(gates);
    if (of.w_hr) w.w_hr = take<Real<T>>(n_.P * n_.H);
    if (of.ln_hh) w.ln_hh = take<Real<T>>(gates);
    if (of.ln_c) w.ln_c = take<Real<T>>(n_.H);
    if (of.b_ln_c) w.b_ln_c = take<Real<T>>(n_.H);
    return w;
  }

  void pack() {
    steps_.pack(team_);
    for (const RightWeight<T, Q>& weight : w_ih_) weight.pack(team_);
    if (share_.unit_part != 0) return;
    if (rows_.dsums) clear_ends(rows_.dsums, dsums_rows(), steps_.dsums_width());
    if (rows_.dh) clear_ends(rows_.dh, chunk_rows_, n_.P);
  }

  void run_direction(int64_t d) {
    d_ = d;
    steps_.begin_direction(d);
    const Steps steps{a_.x_rows, a_.rows, n_.T, share_.row_part, plan_.row_parts, d == 1};
    bool first_chunk = true;
    for (int64_t end = n_.T; end > 0; first_chunk = false) {
      int64_t begin = end, rows = 0;
      do rows += steps.active(--begin);
      while (begin > 0 && rows + steps.active(begin - 1) <= chunk_rows_);
      run_chunk(steps, begin, end, rows, first_chunk);
      end = begin;
    }
    steps_.write_sums(gradients_[d]);
  }

  // Steps end - 1 down to begin; their rows lie in dsums in this order.
  void run_chunk(const Steps& steps, int64_t begin, int64_t end, int64_t rows, bool first_chunk) {
    const int64_t ld = steps_.dsums_ld();
    Q* next = rows_.dsums;  // gradients of the step that comes after, in its forward order
    Q* now = rows_.dsums + steps_.part_rows() * ld;
    chunk_dsums_ = now;
    steps_.begin_chunk(rows_, now);
    tiles_.shape(steps_.part_rows());
    for (int64_t s = end - 1; s >= begin; --s) {
      steps_.run(steps, s, next, now);
      next = now;
      now += steps.active(s) * ld;
    }
    tiles_.shape_whole();
    list_rows(steps, begin, end);
    const Chunk<T, Q> chunk{rows,           first_chunk,     chunk_dsums_,   ld,
                            rows_.dh,       rows_.h,         steps_.dh_ld(), thread_.numbers,
                            thread_.inputs, thread_.previous};
    WeightGradients<Real<T>> by_products = gradients_[d_];
    if (steps_.adds_biases()) by_products.b_ih = by_products.b_hh = nullptr;
    thread_.products.add_weights(chunk, by_products);
    if (gives_inputs()) thread_.products.write_inputs(chunk, w_ih_[d_], d_ == 0 ? a_.dx : other_dx_);
    if (a_.by_row.dsums) hand_out_rows(steps, begin, end);
    if (share_.unit_part == 0) __builtin_memcpy(rows_.dsums, next, steps.active(begin) * ld * sizeof(Q));
    wait(share_.group, plan_.unit_parts, share_.place);
  }

  void list_rows(const Steps& steps, int64_t begin, int64_t end) {
    int64_t k = 0;
    const T* y = a_.y + d_ * n_.P;
    for (int64_t s = end - 1; s >= begin; --s) {
      const int64_t begun = steps.begun(s);
      for (int64_t j = 0; j < steps.active(s); ++j, ++k) {
        thread_.numbers[k] = d_ == 0 ? steps.y_row(s, j) : steps.number(s, j);  // in dx, and in other_dx_
        thread_.inputs[k] = a_.x + steps.x_row(s, j) * n_.I;
        if (j < begun)
          thread_.previous[k] = y + steps.y_row(s - 1, j) * n_.D * n_.P;
        else
          thread_.previous[k] = a_.h_0 ? a_.h_0 + steps.of_batch(d_, n_.B, j) * n_.P : nullptr;
        if (!thread_.masked || !thread_.previous[k]) continue;
        copy_masked(thread_.masked + k * n_.P, thread_.previous[k], a_.h_mask + steps.of_batch(d_, n_.B, j) * n_.P,
                    n_.P);
        thread_.previous[k] = thread_.masked + k * n_.P;
      }
    }
  }

  // The chunk's rows, the thread's share, where the caller has asked for them.
  void hand_out_rows(const Steps& steps, int64_t begin, int64_t end) {
    int64_t k = 0;
    const auto copy = [&](T* to, int64_t number, const Q* rows, int64_t ld, int64_t width) {
      if (to) copy_row(to + (d_ * n_.N + number) * width, rows + k * ld, width);
    };
    for (int64_t s = end - 1; s >= begin; --s) {
      for (int64_t j = 0; j < steps.active(s); ++j, ++k) {
        if (k % plan_.unit_parts != share_.unit_part) continue;
        const int64_t number = steps.number(s, j);
        copy(a_.by_row.dsums, number, chunk_dsums_, steps_.dsums_ld(), Gates::kSums * n_.H);
        copy(a_.by_row.dh, number, rows_.dh, steps_.dh_ld(), n_.P);
        copy(a_.by_row.h, number, rows_.h, n_.H, n_.H);
      }
    }
  }

  // Adds what the other parts of the rows, and the second direction, wrote beside the results.
  void reduce() {
    const int64_t gates = Gates::kGates * n_.H;
    for (int64_t d = 0; d < n_.D; ++d) {
      for (int part = 1; part < plan_.row_parts; ++part) {
        const WeightGradients<Real<T>>&to = a_.gradients[d], &from = second_part_[d];
        const int64_t offset = (part - 1) * private_size_[d];
        add(to.w_ih, from.w_ih, offset, gates * n_.I);
        add(to.w_hh, from.w_hh, offset, gates * n_.P);
        add(to.b_ih, from.b_ih, offset, gates);
        add(to.b_hh, from.b_hh, offset, gates);
        add(to.w_hr, from.w_hr, offset, n_.P * n_.H);
        add(to.ln_hh, from.ln_hh, offset, gates);
        add(to.ln_c, from.ln_c, offset, n_.H);
        add(to.b_ln_c, from.b_ln_c, offset, n_.H);
      }
    }
    if (!a_.rows.place) return add(a_.dx, other_dx_, 0, n_.N * n_.I);
    const Range mine = share({0, a_.dx && other_dx_ ? n_.N : 0}, team_.rank, team_.size);
    for (int64_t k = mine.begin; k < mine.end; ++k)
      add_row(a_.dx + a_.rows.place[k] * n_.I, other_dx_ + k * n_.I, {0, n_.I});
  }

  void add(Real<T>* to, const Real<T>* from, int64_t offset, int64_t elements) const {
    if (!to || !from) return;
    add_row(to, from + offset, share({0, elements}, team_.rank, team_.size));
  }

  static void add_row(Real<T>* to, const Real<T>* from, Range elements) {
    for (int64_t i = elements.begin; i < elements.end; i += kLanes<T>) {
      const int n = valid_lanes<T>(i, elements.end);
      store(to + i, load(to + i, n) + load(from + i, n), n);
    }
  }

  const BackwardArgs<T>& a_;
  const Sizes n_;
  const Plan plan_;
  const Team team_;
  const Share share_;
  Arena arena_;
  BackwardSteps<T, Q, Cell> steps_;
  TilesInUse tiles_{plan_.matrix_steps || plan_.matrix_gradients};
  int64_t chunk_rows_ = 0, d_ = 0;
  Real<T>* other_dx_ = nullptr;
  Q* chunk_dsums_ = nullptr;
  RightWeight<T, Q> w_ih_[2];
  ChunkRows<Q> rows_;
  ThreadBuffers thread_;
  WeightGradients<Real<T>> gradients_[2], second_part_[2];
  int64_t private_size_[2] = {0, 0};
};

}  // namespace
}  // namespace fastrnn
