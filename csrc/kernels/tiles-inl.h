// Register tiles and the panels that feed them. One micro-kernel, `multiply`, carries every matrix product of the
// project: kRows rows by kCols vectors of columns, accumulated in registers over a panel packed in reading order.
#pragma once

#include "kernels/vec.h"

namespace fastrnn {
namespace {

// 6 rows by 4 vectors fill 24 of 32 vector registers; with 16 registers 3 rows leave room for the operands. On Arm the
// left operands take registers too, one each, and a sixth row would spill.
#if defined(FASTRNN_AVX512)
constexpr int kTileRows = 6;
#elif defined(__aarch64__)
constexpr int kTileRows = 5;
#else
constexpr int kTileRows = 3;
#endif
// Vectors of columns in a tile of a plain product.
constexpr int kTileCols = 4;

// Rows that take turns on a piece of a gate panel. Tiles of few rows would wait for L2, so a piece stays in L1 for
// several of them.
#if defined(FASTRNN_AVX512)
constexpr int kBlockRows = kTileRows;
#else
constexpr int kBlockRows = 8 * kTileRows;
#endif

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// The part-th of `parts` nearly equal pieces.
FASTRNN_INLINE Range share(Range all, int64_t part, int64_t parts) {
  return {all.begin + all.size() * part / parts, all.begin + all.size() * (part + 1) / parts};
}

// f(first row, rows) over blocks of at most so many rows, balanced: 32 rows are 6+6+5+5+5+5. With `whole` only the last
// may have other than a multiple of so many: at most 32 of them by 16, 40 rows are 16+24.
template <class F>
FASTRNN_INLINE void for_row_blocks(int64_t most, Range rows, F&& f, int64_t whole = 1) {
  const int64_t blocks = divide_up(rows.size(), most), parts = divide_up(rows.size(), whole);
  for (int64_t i = 0; i < blocks; ++i) {
    const Range part = share({0, parts}, i, blocks),
                block{rows.begin + part.begin * whole, smaller(rows.begin + part.end * whole, rows.end)};
    f(block.begin, int(block.size()));
  }
}

// f.operator()<n>() for a run-time n in 1 .. kMax.
template <int kMax, class F>
FASTRNN_INLINE void with_constant(int n, F&& f) {
  if constexpr (kMax > 1) {
    if (n < kMax) return with_constant<kMax - 1>(n, f);
  }
  f.template operator()<kMax>();
}

// Columns are covered by groups of kMost vectors; the last group is as narrow as it may be.
template <class T, int kMost>
struct ColumnGroups {
  int64_t columns;

  static constexpr int64_t kWidth = kMost * kLanes<T>;
  int64_t count() const { return divide_up(columns, kWidth); }
  int vectors(int64_t group) const { return int(smaller(kMost, divide_up(columns - group * kWidth, kLanes<T>))); }
  int64_t padded() const { return divide_up(columns, kLanes<T>) * kLanes<T>; }
};

// Valid lanes of the vector that starts at column `column`.
template <class T>
FASTRNN_INLINE int valid_lanes(int64_t column, int64_t columns) {
  return int(larger(0, smaller(kLanes<T>, columns - column)));
}

// acc[r][map(c)] += sum over k of a(r, k) * panel(k, c). a(r, k) is a[r * lda + k * kStep], panel(k, c) the c-th vector
// of panel + k * panel_ld. Where T comes in pairs, those of a are side by side (and k counts values still), and a
// vector of the panel holds the pairs of its columns. With kFetch a line from `fetch` on is asked for with each of
// them.
template <class T, int kRows, int kCols, int kAcc, int kStep, bool kFetch, class Map>
FASTRNN_INLINE void multiply(Vec<T> (&acc)[kRows][kAcc], const T* a, int64_t lda, const T* panel, int64_t panel_ld,
                             int64_t K, const T* fetch, Map map) {
  const auto add = [&](auto broadcast_left) __attribute__((always_inline)) {
    Vec<T> w[kCols];
    FASTRNN_UNROLL
    for (int c = 0; c < kCols; ++c) w[c] = load_pairs(panel + c * kPair<T> * kLanes<T>);
    if constexpr (kFetch) {
      constexpr int kIntoL2 = 2;
      __builtin_prefetch(fetch, 0, kIntoL2);
      fetch += kPair<T> * kLanes<T>;
    }
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec<T> x = broadcast_left(a + r * lda);
      FASTRNN_UNROLL
      for (int c = 0; c < kCols; ++c) multiply_add<T>(acc[r][map(c)], x, w[c]);
    }
    a += kStep * kPair<T>;
    panel += panel_ld * kPair<T>;
  };
  for (int64_t k = 0; k + kPair<T> <= K; k += kPair<T>) add([](const T* p) { return broadcast_pair(p); });
  if (K % kPair<T> != 0) add([](const T* p) { return broadcast_last(p); });
}

// Long sums are taken in pieces of so many products, added up in memory: rounding errors then grow with the length of a
// piece and the number of pieces, as in a blocked matrix library, not with their product. With 16 vector registers a
// piece of a panel of 4 vectors is 16 KB, half of L1. Of bfloat16 the operands are so much coarser than the sums that
// only very long ones would gain.
template <class T>
constexpr int64_t kPiece = sizeof(T) == sizeof(BFloat16) ? 16384
                           : FASTRNN_VECTOR_BYTES == 32  ? 128
                                                         : 256;

// The sums of one tile.
template <class T, int kRows, int kAcc>
struct TileSums {
  Vec<T> acc[kRows][kAcc];
  Real<T>* out;  // [kRows][kAcc][lanes]
  bool partial = false;

  template <int kCols, int kStep, class Map>
  FASTRNN_INLINE void add_product(const T* a, int64_t lda, const T* panel, int64_t panel_ld, int64_t K, const T* fetch,
                                  Map map) {
    for (int64_t k = 0; k < K; k += kPiece<T>) {
      if (k > 0) close_piece();
      const auto add = [&]<bool kFetch>() __attribute__((always_inline)) {
        multiply<T, kRows, kCols, kAcc, kStep, kFetch>(acc, a + k * kStep, lda, panel + k * panel_ld, panel_ld,
                                                       smaller(kPiece<T>, K - k), fetch + k * kLanes<T>, map);
      };
      if (kStep == 1 && fetch)
        add.template operator()<true>();
      else
        add.template operator()<false>();
    }
  }

  FASTRNN_INLINE void close_piece() {
    store_all();
    open_piece();
  }

  // Adds to what is in memory.
  FASTRNN_INLINE void open_piece() {
    partial = true;
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTRNN_UNROLL
      for (int c = 0; c < kAcc; ++c) acc[r][c] = Vec<T>{};
    }
  }

  FASTRNN_INLINE void store_all() {
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTRNN_UNROLL
      for (int c = 0; c < kAcc; ++c) {
        Real<T>* at = out + (r * kAcc + c) * kLanes<T>;
        store(at, partial ? load(at) + acc[r][c] : acc[r][c]);
      }
    }
  }
};

// What runs beside a product: nothing.
struct Nothing {
  void spread(int64_t) {}
  void step() {}
};

// The part of the panel after this one that a row block asks for, by the number of the block: of each `vectors` lines
// that the panels have for a term of their sums, one. A panel that lies beyond L2 then comes while the one before is
// multiplied, not while its own first block waits: on Granite Rapids one thread ran layers with 2 MB of weights and
// more 1.2 to 1.35 times as fast, two threads up to 1.1. Null where the others have asked for all of it.
template <class T>
FASTRNN_INLINE const T* part_ahead(const T* next, int64_t K, int vectors, int64_t block) {
  return next && block < vectors ? next + block * whole_depth<T>(K) * kLanes<T> : nullptr;
}

// Left operand of a product (null: no product here), the packed right one, the length of the sum, and what to fetch.
// Handed on by reference, as all that a call makes for a tile: a copy on the stack would be read by the vector when it
// has just been written by the word, and wait for the sums of the tile before (BesideProducts).
template <class T>
struct Operand {
  const T* data;
  int64_t ld;
  const T* panel;
  int64_t K;
  const T* fetch = nullptr;
};

// f(x, h, first) for each piece of the two products. Divided by the length of x even where its product has been formed
// already and x is null, so that hoisting does not change a bit.
template <class T, class F>
FASTRNN_INLINE void for_pieces(const Operand<T>& x, const Operand<T>& h, int64_t panel_ld, F&& f) {
  if (x.K + h.K <= kPiece<T>) return f(x, h, true);
  const Operand<T> none{nullptr, 0, nullptr, 0};
  const auto piece = [&](const Operand<T>& of, int64_t k) {
    const T* fetch = of.fetch ? of.fetch + k * kLanes<T> : nullptr;
    return of.data ? Operand<T>{of.data + k, of.ld, of.panel + k * panel_ld, smaller(kPiece<T>, of.K - k), fetch}
                   : none;
  };
  f(piece(x, 0), none, true);
  for (int64_t k = kPiece<T>; x.data && k < x.K; k += kPiece<T>) f(piece(x, k), none, false);
  for (int64_t k = 0; h.data && k < h.K; k += kPiece<T>) f(none, piece(h, k), false);
}

// Pre-activation sums of kRows rows for kVectors vectors of units: out[r][sum][unit] = init + x W_ih^T + h W_hh^T.
// Without `init` they are added to what `out` holds.
template <class T, class Gates, int kVectors, int kRows>
FASTRNN_NOINLINE void gate_tile(Real<T>* out, const Real<T>* init, int64_t init_ld, const Operand<T>& x,
                                const Operand<T>& h) {
  constexpr int kAcc = Gates::kSums * kVectors, kCols = Gates::kGates * kVectors;
  TileSums<T, kRows, kAcc> sums;
  sums.out = out;
  if (init) {
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) {
      FASTRNN_UNROLL
      for (int c = 0; c < kAcc; ++c) sums.acc[r][c] = load(init + r * init_ld + c * kLanes<T>);
    }
  } else {
    sums.open_piece();
  }
  if (x.data)
    sums.template add_product<kCols, 1>(x.data, x.ld, x.panel, kCols * kLanes<T>, x.K, x.fetch,
                                        [](int c) { return Gates::x_sum(c / kVectors) * kVectors + c % kVectors; });
  if (h.data && x.K + h.K > kPiece<T>) sums.close_piece();
  if (h.data)
    sums.template add_product<kCols, 1>(h.data, h.ld, h.panel, kCols * kLanes<T>, h.K, h.fetch,
                                        [](int c) { return Gates::h_sum(c / kVectors) * kVectors + c % kVectors; });
  sums.store_all();
}

// gate_tile for any number of rows and of vectors.
template <class T, class Gates, int kMostVectors>
FASTRNN_INLINE void gate_sums(Real<T>* out, int rows, int vectors, const Real<T>* init, int64_t init_ld,
                              const Operand<T>& x, const Operand<T>& h) {
  const int64_t width = Gates::kSums * vectors * kLanes<T>;
  const auto from = [](const Operand<T>& of, int64_t row) {
    return Operand<T>{of.data ? of.data + row * of.ld : nullptr, of.ld, of.panel, of.K, row == 0 ? of.fetch : nullptr};
  };
  const auto tiles = [&](const Operand<T>& of_x, const Operand<T>& of_h, bool first) {
    for_row_blocks(kTileRows, {0, rows}, [&](int64_t row, int count) {
      with_constant<kMostVectors>(vectors, [&]<int kVectors>() {
        with_constant<kTileRows>(count, [&]<int kRows>() {
          gate_tile<T, Gates, kVectors, kRows>(out + row * width, first ? init + row * init_ld : nullptr, init_ld,
                                               from(of_x, row), from(of_h, row));
        });
      });
    });
  };
  // One block of rows takes its pieces in one call.
  if (kBlockRows == kTileRows)
    tiles(x, h, true);
  else
    for_pieces(x, h, Gates::kGates * vectors * kLanes<T>, tiles);
}

// The left operand of a plain product: the values from segment[s] on of row r, which is at data + r * ld.
template <class T>
struct Segments {
  const T* data;
  int64_t ld;
  const int64_t* segment;
  int count;
};

// The right operand of a plain product: row k at data + k * ld, packed or as it lies. What to fetch with it, or null.
template <class T>
struct Panel {
  const T* data;
  int64_t ld;
  const T* fetch = nullptr;
};

// out[r][c] = the sum over segments s and k < K of a(r, segment[s] + k) * panel(s * whole_depth(K) + k, c).
template <class T, int kCols, int kRows, int kStep>
FASTRNN_NOINLINE void product_tile(Real<T>* out, const Segments<T>& a, const Panel<T>& panel, int64_t K) {
  TileSums<T, kRows, kCols> sums;
  sums.out = out;
  FASTRNN_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FASTRNN_UNROLL
    for (int c = 0; c < kCols; ++c) sums.acc[r][c] = Vec<T>{};
  }
  int64_t length = 0;
  for (int s = 0; s < a.count; ++s, length += K) {
    if (length > 0 && length + K > kPiece<T>) {
      sums.close_piece();
      length = 0;
    }
    const int64_t first = s * whole_depth<T>(K);
    sums.template add_product<kCols, kStep>(a.data + a.segment[s], a.ld, panel.data + first * panel.ld, panel.ld, K,
                                            panel.fetch ? panel.fetch + first * kLanes<T> : nullptr,
                                            [](int c) { return c; });
  }
  sums.store_all();
}

// A product with run-time numbers of rows and column vectors.
template <class T>
FASTRNN_INLINE void product(Real<T>* out, int rows, int cols, const Segments<T>& a, const Panel<T>& panel, int64_t K) {
  with_constant<kTileCols>(cols, [&]<int kCols>() {
    with_constant<kTileRows>(rows, [&]<int kRows>() { product_tile<T, kCols, kRows, 1>(out, a, panel, K); });
  });
}

}  // namespace
}  // namespace fastrnn
