// The products of a layer: on the matrix unit where its plan says so and T has one, on register tiles elsewhere. Both
// read the same panels.
#pragma once

#include "kernels/direct-inl.h"
#include "kernels/panels-inl.h"
#include "kernels/tiles-inl.h"

#if defined(FASTRNN_MATRIX)
#include "kernels/matrix-products-inl.h"
#endif

namespace fastrnn {
namespace {

#if !defined(FASTRNN_MATRIX)
struct TilesInUse {
  explicit TilesInUse(bool) {}
  void shape(int64_t, int = 1) {}
  void shape_whole() {}
};
#endif

// Rows that a plan's products take at once, and for which there is room in their sums.
template <class T>
constexpr int kMostRows = kMatrix<T> ? 2 * 16 : kBlockRows;
template <class T>
FASTRNN_INLINE int64_t rows_at_once(bool matrix, int64_t by_vectors) {
  return kMatrix<T> && matrix ? kMostRows<T> : by_vectors;
}

// From a row of a left operand to the next: a whole depth of the matrix unit, which asks for zeros at its end, and a
// line more, so that rows do not fall into one set of the cache.
template <class T>
constexpr int64_t row_ld(int64_t width) {
  return whole_depth<T>(width) + 64 / int64_t(sizeof(T));
}
template <class T>
void clear_ends(T* rows, int64_t count, int64_t width) {
  for (int64_t r = 0; kMatrix<T> && r < count; ++r)
    __builtin_memset(rows + r * row_ld<T>(width) + width, 0, (row_ld<T>(width) - width) * sizeof(T));
}
// The matrix unit reads and writes whole tiles of rows: there must be so many more of them.
template <class T>
constexpr int64_t kSpareRows = kMatrix<T> ? kMostRows<T> : 0;

// Work on rows that is done between the steps of a product, if they leave the vector units idle: on the matrix unit a
// product and the cell of the rows before it take little more than the longer of the two. run(begin, end) does rows.
template <class Run>
class BesideProducts {
  static_assert(std::is_trivially_destructible_v<Run>);

 public:
  BesideProducts() {}

  // Finishes what there is and takes on other rows, with what `make` returns. It is made where it stays: a copy reads
  // by the vector what was just written by the word, and so waits until that, and the sums of the product before it,
  // are in L1. That took 60 ns for each block of a step on the matrix unit.
  template <class Make>
  FASTRNN_INLINE void turn_to(int rows, Make&& make) {
    finish();
    new (&run_) Run(make());
    rows_ = rows, done_ = 0;
  }

  void spread(int64_t steps) { at_once_ = int(divide_up(rows_ - done_, larger(steps, 1))); }
  FASTRNN_INLINE void step() {
    if (done_ == rows_) return;
    const int end = int(smaller(done_ + at_once_, rows_));
    run_(done_, end);
    done_ = end;
  }
  void finish() {
    if (done_ < rows_) run_(done_, rows_);
    done_ = rows_;
  }

 private:
  union {
    Run run_;
  };
  int rows_ = 0, at_once_ = 0, done_ = 0;
};

// gate_sums of up to kMostRows rows. On the matrix unit `beside` runs between its steps.
template <class T, class Gates, int kMostVectors, class Beside>
FASTRNN_INLINE void gate_products([[maybe_unused]] bool matrix, Real<T>* out, int rows, int vectors,
                                  const Real<T>* init, int64_t init_ld, const Operand<T>& x, const Operand<T>& h,
                                  [[maybe_unused]] Beside&& beside) {
  if constexpr (kMatrix<T>) {
    if (matrix) return matrix_gate_sums<Gates, kMostVectors>(out, rows, vectors, init, init_ld, x, h, beside);
  }
  gate_sums<T, Gates, kMostVectors>(out, rows, vectors, init, init_ld, x, h);
}

// product, likewise.
template <class T, class Beside>
FASTRNN_INLINE void plain_product([[maybe_unused]] bool matrix, Real<T>* out, int rows, int cols, const Segments<T>& a,
                                  const Panel<T>& panel, int64_t K, [[maybe_unused]] Beside&& beside) {
  if constexpr (kMatrix<T>) {
    if (matrix) return matrix_product(out, rows, cols, a, panel, K, beside);
  }
  product<T>(out, rows, cols, a, panel, K);
}

}  // namespace
}  // namespace fastrnn
