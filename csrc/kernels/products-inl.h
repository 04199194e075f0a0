// The products of a layer: on the matrix unit where its plan says so and T has one, on register tiles elsewhere. Both
// read the same panels.
#pragma once

#include "kernels/tiles-inl.h"

#if defined(FASTRNN_MATRIX)
#include "kernels/matrix-products-inl.h"
#endif

namespace fastrnn {
namespace {

#if !defined(FASTRNN_MATRIX)
struct TilesInUse {
  explicit TilesInUse(bool) {}
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

// gate_sums, of up to kMostRows rows.
template <class T, class Gates, int kMostVectors>
FASTRNN_INLINE void gate_products([[maybe_unused]] bool matrix, Real<T>* out, int rows, int vectors,
                                  const Real<T>* init, int64_t init_ld, Operand<T> x, Operand<T> h) {
  if constexpr (kMatrix<T>) {
    if (matrix) return matrix_gate_sums<Gates, kMostVectors>(out, rows, vectors, init, init_ld, x, h);
  }
  gate_sums<T, Gates, kMostVectors>(out, rows, vectors, init, init_ld, x, h);
}

template <class T>
FASTRNN_INLINE void plain_product([[maybe_unused]] bool matrix, Real<T>* out, int rows, int cols, const Segments<T>& a,
                                  Panel<T> panel, int64_t K) {
  if constexpr (kMatrix<T>) {
    if (matrix) return matrix_product(out, rows, cols, a, panel, K);
  }
  product<T>(out, rows, cols, a, panel, K);
}

}  // namespace
}  // namespace fastrnn
