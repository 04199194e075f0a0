// The products of a layer on the matrix unit, from the panels of the register tiles: a tile of a panel is 16 pairs of
// its rows, one vector of its columns.
//
// Four tiles hold sums: 32 rows by 2 vectors of columns, or 16 by 4. The other four take the operands; so a product's
// operands are loaded once for two products, which is what loads from L1 keep up with.
#pragma once

#include "kernels/matrix-inl.h"
#include "kernels/tiles-inl.h"

namespace fastrnn {
namespace {

static_assert(kLanes<float> == kTileWidth, "a vector of columns is a tile");
static_assert(kTileDepth<BFloat16> == whole_depth<BFloat16>(1), "panels are padded to a tile");

// f.operator()<i>() for i in 0 .. n - 1.
template <int n, class F>
FASTRNN_INLINE void for_constants(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      __attribute__((always_inline)) { (f.template operator()<i>(), ...); }(std::make_integer_sequence<int, n>());
}

// The left operand of a product, a tile at `data`, its rows `ld` apart; and from there to the next 16 rows, and to the
// next 32 values of the sums.
template <class T>
struct LeftTiles {
  const T* data;
  int64_t ld, to_next_rows, to_next_depth;
};
FASTRNN_INLINE LeftTiles<BFloat16> rows_as_they_lie(const BFloat16* data, int64_t ld) {
  return {data, ld, kTileHeight * ld, kTileDepth<BFloat16>};
}

// The sums of kRowTiles times 16 rows by the columns kFirst .. kFirst + kCols - 1 of a product.
template <int kRowTiles, int kFirst, int kCols>
struct SumTiles {
  static_assert(kRowTiles * kCols <= kSumTiles);
  static constexpr int kLeft = kSumTiles, kRight = kLeft + kRowTiles, kRights = 8 - kRight;

  Tiles tiles;

  // f.operator()<tile>(row, column) for each.
  template <class F>
  FASTRNN_INLINE void for_each(F&& f) {
    for_constants<kRowTiles>([&]<int r>() __attribute__((always_inline)) {
      for_constants<kCols>([&]<int c>() __attribute__((always_inline)) {
        f.template operator()<r * kCols + c>(r * kTileHeight, (kFirst + c) * kTileWidth);
      });
    });
  }
  FASTRNN_INLINE void zero() {
    for_each([&]<int tile>(int64_t, int64_t) __attribute__((always_inline)) { tiles.template zero<tile>(); });
  }
  // With a leading dimension of 0, one row for all.
  template <class Sum>
  FASTRNN_INLINE void load(const Sum* from, int64_t ld) {
    for_each([&]<int tile>(int64_t row, int64_t column) __attribute__((always_inline)) {
      tiles.template load<tile>(from + row * ld + column, ld * sizeof(Sum));
    });
  }
  template <class Sum>
  FASTRNN_INLINE void store(Sum* to, int64_t ld) {
    for_each([&]<int tile>(int64_t row, int64_t column) __attribute__((always_inline)) {
      tiles.template store<tile>(to + row * ld + column, ld * sizeof(Sum));
    });
  }

  // The products with those of kPanel columns of a panel whose sums Map() gives as one of these.
  template <int kPanel, class Map, class T, class Beside>
  FASTRNN_INLINE void add_product(LeftTiles<T> a, Panel<T> panel, int64_t K, Beside&& beside) {
    for (int64_t k = 0; k < K; k += kTileDepth<T>) {
      for_constants<kRowTiles>([&]<int r>() __attribute__((always_inline)) {
        tiles.template load<kLeft + r>(a.data + r * a.to_next_rows, a.ld * sizeof(T));
      });
      for_constants<kPanel>([&]<int c>() __attribute__((always_inline)) {
        constexpr int sum = Map()(c) - kFirst;
        if constexpr (sum >= 0 && sum < kCols) {
          constexpr int right = kRight + sum % kRights;
          tiles.template load<right>(panel.data + c * kTileStep<T> * kTileWidth, kTileStep<T> * panel.ld * sizeof(T));
          for_constants<kRowTiles>([&]<int r>() __attribute__((always_inline)) {
            tiles.template multiply_add<T, r * kCols + sum, kLeft + r, right>();
          });
        }
      });
      beside.step();
      a.data += a.to_next_depth;
      panel.data += kTileDepth<T> * panel.ld;
    }
  }
};

// f(SumTiles) for the columns of a product, as many at a time as there are tiles for.
template <int kRowTiles, int kCols, int kFirst = 0, class F>
FASTRNN_INLINE void for_column_tiles(F&& f) {
  constexpr int kAtOnce = kSumTiles / kRowTiles;
  if constexpr (kFirst < kCols) {
    f(SumTiles<kRowTiles, kFirst, (kCols - kFirst < kAtOnce ? kCols - kFirst : kAtOnce)>());
    for_column_tiles<kRowTiles, kCols, kFirst + kAtOnce>(f);
  }
}

template <class Gates, int kVectors>
struct XSum {
  constexpr int operator()(int c) const { return Gates::x_sum(c / kVectors) * kVectors + c % kVectors; }
};
template <class Gates, int kVectors>
struct HSum {
  constexpr int operator()(int c) const { return Gates::h_sum(c / kVectors) * kVectors + c % kVectors; }
};
struct SameColumn {
  constexpr int operator()(int c) const { return c; }
};

template <int kRowTiles, int kCols>
constexpr int kColumnTurns = int(divide_up(kCols, kSumTiles / kRowTiles));

template <class Gates, int kVectors, int kRowTiles, class Beside>
FASTRNN_NOINLINE void matrix_gate_tile(float* out, const float* init, int64_t init_ld, const Operand<BFloat16>& x,
                                       const Operand<BFloat16>& h, Beside&& beside) {
  constexpr int kSums = Gates::kSums * kVectors, kPanel = Gates::kGates * kVectors;
  constexpr int64_t panel_ld = kPanel * kTileWidth;
  const int64_t depth = (x.data ? whole_depth<BFloat16>(x.K) : 0) + (h.data ? whole_depth<BFloat16>(h.K) : 0);
  beside.spread(kColumnTurns<kRowTiles, kSums> * depth / kTileDepth<BFloat16>);
  for_column_tiles<kRowTiles, kSums>([&](auto sums) __attribute__((always_inline)) {
    sums.load(init, init_ld);
    if (x.data)
      sums.template add_product<kPanel, XSum<Gates, kVectors>>(rows_as_they_lie(x.data, x.ld),
                                                               Panel<BFloat16>{x.panel, panel_ld}, x.K, beside);
    if (h.data)
      sums.template add_product<kPanel, HSum<Gates, kVectors>>(rows_as_they_lie(h.data, h.ld),
                                                               Panel<BFloat16>{h.panel, panel_ld}, h.K, beside);
    sums.store(out, kSums * kTileWidth);
  });
}

// gate_sums for up to 32 rows. Of the operands, of `init` and of `out` there are whole tiles of rows.
template <class Gates, int kMostVectors, class Beside>
FASTRNN_INLINE void matrix_gate_sums(float* out, int rows, int vectors, const float* init, int64_t init_ld,
                                     const Operand<BFloat16>& x, const Operand<BFloat16>& h, Beside&& beside) {
  with_constant<kMostVectors>(vectors, [&]<int kVectors>() {
    with_constant<2>(rows > kTileHeight ? 2 : 1, [&]<int kRowTiles>() {
      matrix_gate_tile<Gates, kVectors, kRowTiles>(out, init, init_ld, x, h, beside);
    });
  });
}

template <int kCols, int kRowTiles, class Beside>
FASTRNN_NOINLINE void matrix_product_tile(float* out, const Segments<BFloat16>& a, const Panel<BFloat16>& panel,
                                          int64_t K, Beside&& beside) {
  beside.spread(kColumnTurns<kRowTiles, kCols> * a.count * whole_depth<BFloat16>(K) / kTileDepth<BFloat16>);
  for_column_tiles<kRowTiles, kCols>([&](auto sums) __attribute__((always_inline)) {
    sums.zero();
    for (int s = 0; s < a.count; ++s)
      sums.template add_product<kCols, SameColumn>(
          rows_as_they_lie(a.data + a.segment[s], a.ld),
          Panel<BFloat16>{panel.data + s * whole_depth<BFloat16>(K) * panel.ld, panel.ld}, K, beside);
    sums.store(out, kCols * kTileWidth);
  });
}

// product for up to 32 rows. Of the operands and of `out` there are whole tiles of rows; behind a segment's K values
// others may follow, finite ones.
template <class Beside>
FASTRNN_INLINE void matrix_product(float* out, int rows, int cols, const Segments<BFloat16>& a,
                                   const Panel<BFloat16>& panel, int64_t K, Beside&& beside) {
  with_constant<kTileCols>(cols, [&]<int kCols>() {
    with_constant<2>(rows > kTileHeight ? 2 : 1,
                     [&]<int kRowTiles>() { matrix_product_tile<kCols, kRowTiles>(out, a, panel, K, beside); });
  });
}

// Left operand of a weight gradient: for every 16 columns of src a tile after another over k, [k / 32][16 columns][32],
// zero past the end. A pair of rows is transposed as one lane.
[[maybe_unused]] FASTRNN_NOINLINE void pack_column_tiles(BFloat16* dst, const BFloat16* src, int64_t ld, int64_t K,
                                                         Range columns) {
  for (int64_t c = columns.begin; c < columns.end; c += kTileHeight) {
    const int n = valid_lanes<float>(c, columns.end);
    for (int64_t k = 0; k < K; k += kTileDepth<BFloat16>) {
      Vec<float> v[kTileHeight];
      FASTRNN_UNROLL
      for (int i = 0; i < kTileHeight; ++i) {
        const int64_t row = k + 2 * i;
        const auto at = [&](int64_t r) { return r < K ? src + r * ld + c : nullptr; };
        v[i] = interleave(at(row), at(row + 1), n);
      }
      transpose<float>(v);
      FASTRNN_UNROLL
      for (int i = 0; i < kTileHeight; ++i, dst += kTileDepth<BFloat16>) store_pairs(dst, v[i]);
    }
  }
}

// Where a product goes: `rows` rows of w [., width], from `column` on; added to what is there or in its place.
struct GradientBlock {
  float* w;
  int64_t width, column;
  int rows;
  bool overwrite;
};

// w (+)= left^T right over K rows, for kCols vectors of columns and 16 or 32 rows of w, blocks of the packed left.
template <int kCols, int kRowTiles>
FASTRNN_NOINLINE void matrix_outer_tile(const GradientBlock& to, const BFloat16* left, const Panel<BFloat16>& right,
                                        int64_t K) {
  constexpr int64_t kTileSize = kTileHeight * kTileDepth<BFloat16>, kWidth = kCols * kTileWidth;
  SumTiles<kRowTiles, 0, kCols> sums;
  const bool whole = to.rows == kRowTiles * kTileHeight && to.column + kWidth <= to.width;
  float* const w = to.w + to.column;
  if (whole && !to.overwrite)
    sums.load(w, to.width);
  else
    sums.zero();
  const int64_t tiles = divide_up(K, kTileDepth<BFloat16>);
  sums.template add_product<kCols, SameColumn>(
      LeftTiles<BFloat16>{left, kTileDepth<BFloat16>, tiles * kTileSize, kTileSize}, right, K, Nothing());
  if (whole) return sums.store(w, to.width);
  alignas(64) float beside[kRowTiles * kTileHeight * kWidth];
  sums.store(beside, kWidth);
  for (int r = 0; r < to.rows; ++r) {
    for (int c = 0; c < kCols; ++c) {
      const int n = valid_lanes<float>(to.column + c * kTileWidth, to.width);
      float* at = w + r * to.width + c * kTileWidth;
      const Vec<float> v = load(beside + r * kWidth + c * kTileWidth);
      store(at, to.overwrite ? v : load(at, n) + v, n);
    }
  }
}

// The same for up to 32 rows and 1 or 2 vectors of columns: so few, that the right panel of a chunk stays in L1.
constexpr int kOuterCols = 2;
FASTRNN_INLINE void matrix_outer(const GradientBlock& to, int cols, const BFloat16* left, const Panel<BFloat16>& right,
                                 int64_t K) {
  with_constant<kOuterCols>(cols, [&]<int kCols>() {
    with_constant<2>(to.rows > kTileHeight ? 2 : 1,
                     [&]<int kRowTiles>() { matrix_outer_tile<kCols, kRowTiles>(to, left, right, K); });
  });
}

}  // namespace
}  // namespace fastrnn
