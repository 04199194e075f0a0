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

// f(first row, rows) over blocks of at most so many rows, balanced: 32 rows are 6+6+5+5+5+5.
template <class F>
FASTRNN_INLINE void for_row_blocks(int64_t most, Range rows, F&& f) {
  const int64_t blocks = divide_up(rows.size(), most);
  for (int64_t i = 0; i < blocks; ++i) {
    const Range block = share(rows, i, blocks);
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
FASTRNN_INLINE void for_pieces(Operand<T> x, Operand<T> h, int64_t panel_ld, F&& f) {
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
FASTRNN_NOINLINE void gate_tile(Real<T>* out, const Real<T>* init, int64_t init_ld, Operand<T> x, Operand<T> h) {
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
FASTRNN_INLINE void gate_sums(Real<T>* out, int rows, int vectors, const Real<T>* init, int64_t init_ld, Operand<T> x,
                              Operand<T> h) {
  const int64_t width = Gates::kSums * vectors * kLanes<T>;
  const auto from = [](const Operand<T>& of, int64_t row) {
    return Operand<T>{of.data ? of.data + row * of.ld : nullptr, of.ld, of.panel, of.K, row == 0 ? of.fetch : nullptr};
  };
  const auto tiles = [&](Operand<T> of_x, Operand<T> of_h, bool first) {
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
FASTRNN_NOINLINE void product_tile(Real<T>* out, const Segments<T>& a, Panel<T> panel, int64_t K) {
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
FASTRNN_INLINE void product(Real<T>* out, int rows, int cols, const Segments<T>& a, Panel<T> panel, int64_t K) {
  with_constant<kTileCols>(cols, [&]<int kCols>() {
    with_constant<kTileRows>(rows, [&]<int kRows>() { product_tile<T, kCols, kRows, 1>(out, a, panel, K); });
  });
}

// Gate panel of one group: dst[k][gate][unit] = w[gate * H + unit][k] for the units from `unit` on, zero past H. Pairs
// along k stay side by side, and are transposed as one lane.
template <class T>
FASTRNN_NOINLINE void pack_gates(T* dst, const T* w, int gates, int64_t H, int64_t K, int64_t unit, int vectors) {
  const int64_t ld = int64_t(gates) * vectors * kLanes<T>;
  for (int block = 0; block < gates * vectors; ++block) {
    const int64_t first = unit + (block % vectors) * kLanes<T>;
    const int rows = valid_lanes<T>(first, H);
    const T* src = w + ((block / vectors) * H + first) * K;
    T* out = dst + block * kPair<T> * kLanes<T>;
    constexpr int kDepth = kPair<T> * kLanes<T>;
    for (int64_t k = 0; k < K; k += kDepth) {
      const int n = int(smaller(kDepth, K - k));
      Vec<T> v[kLanes<T>];
      FASTRNN_UNROLL
      for (int i = 0; i < kLanes<T>; ++i)
        v[i] = i >= rows ? Vec<T>{} : n == kDepth ? load_pairs(src + i * K + k) : load_pairs(src + i * K + k, n);
      transpose<Real<T>>(v);
      if (n == kDepth || kMatrix<T>) {
        FASTRNN_UNROLL
        for (int i = 0; i < kLanes<T>; ++i) store_pairs(out + (k + i * kPair<T>)*ld, v[i]);
      } else {
        for (int i = 0; i * kPair<T> < n; ++i) store_pairs(out + (k + i * kPair<T>)*ld, v[i]);
      }
    }
  }
}

// Plain panel of one group: dst[k][0 .. cols) = row(k)[column ..], zero past the last of `columns` and for null rows.
template <class T, class Row>
FASTRNN_INLINE void pack_rows(T* dst, Row row, int64_t K, int64_t column, int cols, int64_t columns) {
  for (int64_t k = 0; k < whole_depth<T>(K); k += kPair<T>) {
    const T* src = k < K ? row(k) : nullptr;
    const T* partner = kPair<T> == 2 && k + 1 < K ? row(k + 1) : nullptr;
    for (int c = 0; c < cols; ++c, dst += kPair<T> * kLanes<T>) {
      const int64_t at = column + c * kLanes<T>;
      const int n = valid_lanes<T>(at, columns);
      if constexpr (kPair<T> == 2)
        store_pairs(dst, interleave(src ? src + at : nullptr, partner ? partner + at : nullptr, n));
      else
        store(dst, src ? load(src + at, n) : Vec<T>{});
    }
  }
}

// Left operand of a weight gradient: dst[block][k][kTileRows] = src[k * ld + columns of the block], zero past the end.
template <class T>
FASTRNN_NOINLINE void pack_columns(T* dst, const T* src, int64_t ld, int64_t K, Range columns) {
  static_assert(kPair<T> == 1 || kTileRows == 6, "store_first_pairs writes 6");
  for (int64_t c = columns.begin; c < columns.end; c += kTileRows, dst += whole_pairs<T>(K) * kTileRows) {
    if constexpr (kPair<T> == 2) {
      const int n = int(smaller(kTileRows, columns.end - c));
      for (int64_t k = 0; k < K; k += 2)
        store_first_pairs(dst + k * kTileRows, src + k * ld + c, k + 1 < K ? src + (k + 1) * ld + c : nullptr, n);
    } else if (c + kTileRows <= columns.end) {
      for (int64_t k = 0; k < K; ++k) __builtin_memcpy(dst + k * kTileRows, src + k * ld + c, kTileRows * sizeof(T));
    } else {
      for (int64_t k = 0; k < K; ++k)
        for (int i = 0; i < kTileRows; ++i) dst[k * kTileRows + i] = c + i < columns.end ? src[k * ld + c + i] : T(0);
    }
  }
}

// Left rows and a weight as it lies, [G*H, K].
template <class T>
struct DirectOperand {
  const T* data;  // null: zeros
  int64_t ld;
  const T* weight;
  int64_t K;
};

// A weight as it lies is read in kStreams rows side by side: 4 streams come from L2 as fast as one (117 GB/s on Zen 4),
// 16 at 90. What has been read serves kDirectRows rows on the left.
template <class T>
constexpr int kStreams = kLanes<T> < 4 ? kLanes<T> : 4;
#if defined(FASTRNN_AVX512)
constexpr int kDirectRows = 4;
#else
constexpr int kDirectRows = 2;
#endif

// v[r][i] += the products, not yet summed over the lanes, of row r of a with row i of a weight, of which `rows` are
// left. Past the last it is that one again: nobody stores those lanes. kWhole: no part of a vector is left over. With
// `fetch` the next rows of the weight are asked for: where it lies in memory, short streams alone take 1.4 to 1.7 times
// as long.
template <class T, bool kWhole, int kRows>
FASTRNN_INLINE void add_dot_products(Vec<T> (&v)[kRows][kStreams<T>], const T* a, int64_t lda, const T* weight,
                                     int64_t rows, int64_t K, bool fetch) {
  constexpr int kStep = kPair<T> * kLanes<T>, kIntoL2 = 2;
  const auto add = [&](int64_t k, auto load_operand) __attribute__((always_inline)) {
    Vec<T> x[kRows];
    FASTRNN_UNROLL
    for (int r = 0; r < kRows; ++r) x[r] = load_operand(a + r * lda + k);
    FASTRNN_UNROLL
    for (int i = 0; i < kStreams<T>; ++i) {
      if (fetch) __builtin_prefetch(weight + (i + kStreams<T>)*K + k, 0, kIntoL2);
      const Vec<T> w = load_operand(weight + (kWhole ? i : smaller(i, rows - 1)) * K + k);
      FASTRNN_UNROLL
      for (int r = 0; r < kRows; ++r) multiply_add<T>(v[r][i], x[r], w);
    }
  };
  int64_t k = 0;
  for (; k + kStep <= K; k += kStep) add(k, [](const T* p) { return load_pairs(p); });
  if (!kWhole && k < K) add(k, [n = int(K - k)](const T* p) { return load_pairs(p, n); });
}

// out[r][sum][unit] += x W_ih^T + h W_hh^T for the units from `unit` on, from weights as they lie.
template <class T, class Gates, bool kWhole>
FASTRNN_NOINLINE void direct_tile(Real<T>* out, int rows, int vectors, DirectOperand<T> x, DirectOperand<T> h,
                                  int64_t H, int64_t unit) {
  constexpr int kGroups = kLanes<Real<T>> / kStreams<T>;
  for (int gate = 0; gate < Gates::kGates; ++gate) {
    const bool added = Gates::x_sum(gate) == Gates::h_sum(gate);
    for (int u = 0; u < vectors; ++u) {
      Vec<T> x_sums[kBlockRows][kGroups], sums[kBlockRows][kGroups];
      for (int group = 0; group < kGroups; ++group) {
        const int64_t column = smaller(unit + u * kLanes<T> + group * kStreams<T>, H - 1), left = H - column;
        const T* x_weight = x.weight + (gate * H + column) * x.K;
        const T* h_weight = h.weight + (gate * H + column) * h.K;
        const auto add_rows = [&]<int kRows>(int r) __attribute__((always_inline)) {
          Vec<T> v[kRows][kStreams<T>] = {};
          const auto close = [&](Vec<T>(&to)[kBlockRows][kGroups]) __attribute__((always_inline)) {
            FASTRNN_UNROLL
            for (int i = 0; i < kRows; ++i) to[r + i][group] = sum_each<Real<T>>(v[i]);
          };
          // A single row reads so little at a time that asking takes longer than it saves.
          const bool fetch = kRows > 1 && r == 0;
          add_dot_products<T, kWhole>(v, x.data + r * x.ld, x.ld, x_weight, left, x.K, fetch);
          if (!added) {
            close(x_sums);
            FASTRNN_UNROLL
            for (int i = 0; i < kRows * kStreams<T>; ++i) v[i / kStreams<T>][i % kStreams<T>] = Vec<T>{};
          }
          if (h.data) add_dot_products<T, kWhole>(v, h.data + r * h.ld, h.ld, h_weight, left, h.K, fetch);
          close(sums);
        };
        int r = 0;
        for (; r + kDirectRows <= rows; r += kDirectRows) add_rows.template operator()<kDirectRows>(r);
        for (; r < rows; ++r) add_rows.template operator()<1>(r);
      }
      for (int r = 0; r < rows; ++r) {
        const auto add_to = [&](int sum, const Vec<T>(&groups)[kGroups]) __attribute__((always_inline)) {
          Real<T>* at = out + ((int64_t(r) * Gates::kSums + sum) * vectors + u) * kLanes<T>;
          store(at, load(at) + join<Real<T>>(groups));
        };
        if (!added) add_to(Gates::x_sum(gate), x_sums[r]);
        add_to(Gates::h_sum(gate), sums[r]);
      }
    }
  }
}

}  // namespace
}  // namespace fastrnn
