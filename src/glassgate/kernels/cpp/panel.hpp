// Matrix products with the right-hand side packed into panels.
//
// A panel holds NV vectors for each k, one after the other: [K][NV][width]. A product adds rows of A times one panel to
// a tile [rows][NV][width] that lies in the first-level cache. It passes over `pass_depth` values of k at a time: each
// element of the tile grows by one chain of fused multiply-adds from zero for each pass. The order of all sums depends on
// K alone, not on the number of rows, the width of the panel or the thread: this is what makes results independent of all
// three, bit for bit; and short chains keep the rounding errors of long sums small.
#pragma once

#include "simd.hpp"

#include <cstddef>
#include <utility>

namespace glassgate::kernels::GG_ISA {

GG_INLINE Index min(Index a, Index b) { return a < b ? a : b; }
GG_INLINE Index max(Index a, Index b) { return a > b ? a : b; }
GG_INLINE Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
GG_INLINE Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

// The part of `count` things that thread `rank` of `size` does.
struct Range {
    Index begin, end;
};
GG_INLINE Range share(Index count, Index rank, Index size) { return {count * rank / size, count * (rank + 1) / size}; }

// Registers: rows * NV accumulators, NV weights and a broadcast. 32 of them with AVX-512, 16 elsewhere.
#if defined(__AVX512F__) || defined(GG_MANY_REGISTERS)
template <int NV> inline constexpr int max_rows = NV == 4 ? 6 : NV == 3 ? 8 : 12;
#else
template <int NV> inline constexpr int max_rows = NV == 4 ? 3 : NV == 3 ? 4 : 6;
#endif

inline constexpr Index tile_rows = 64;   // rows of a tile: with a panel block of 16 KB it fits a 32 KB cache
inline constexpr int max_vectors = 4;    // vectors of a panel
template <class S> inline constexpr Index tile_size = tile_rows * max_vectors * width<S>;

#ifndef GG_PASS
#define GG_PASS 128
#endif
inline constexpr Index pass_depth = GG_PASS;

// tile[R][NV][width] += a[r][k * STRIDE] * panel[k][NV][width].
template <class S, int R, int NV, int STRIDE>
GG_INLINE void micro(Index depth, const S* const* a, Index offset, const S* panel, S* tile) {
    constexpr Index W = width<S>;
    Vec<S> sum[R][NV];
    const S* row[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        row[r] = a[r] + offset;
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = Vec<S>{};
    }
    for (Index k = 0; k < depth; ++k) {
        Vec<S> weight[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) weight[v] = load(panel + v * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec<S> x = broadcast<S>(row[r][k * STRIDE]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sum[r][v] = fmadd<S>(x, weight[v], sum[r][v]);
        }
        panel += NV * W;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            S* to = tile + (r * NV + v) * W;
            store(to, load(to) + sum[r][v]);
        }
}

template <class S, int R, int NV, int STRIDE> struct MicroTable {
    static __attribute__((noinline)) void call(Index depth, const S* const* a, Index offset, const S* panel, S* tile) {
        micro<S, R, NV, STRIDE>(depth, a, offset, panel, tile);
    }
    static GG_INLINE void run(Index rows, Index depth, const S* const* a, Index offset, const S* panel, S* tile) {
        if (rows == R) return call(depth, a, offset, panel, tile);
        if constexpr (R > 1) MicroTable<S, R - 1, NV, STRIDE>::run(rows, depth, a, offset, panel, tile);
    }
};

// Where a product finds the rows k to k + count of a panel: here they lie in the panel.
template <class S, int NV> struct Panel {
    const S* panel;
    const S* rows(Index k, Index) const { return panel + k * NV * width<S>; }

    // Asks for part b of `blocks` of the pass that lies behind the one at k: in this panel or at the beginning of the next,
    // which is most often what comes next. Panels of four vectors only: those of two and three come as fast without it.
    GG_INLINE void expect(Index k, Index b, Index blocks) const {
        if (NV < 4 || blocks < 2) return;
        const char* next = reinterpret_cast<const char*>(rows(k + pass_depth, 0));
        const Index lines = pass_depth * NV * width<S> * static_cast<Index>(sizeof(S)) / 64;
        for (Index line = lines * b / blocks; line < lines * (b + 1) / blocks; ++line)
            __builtin_prefetch(next + line * 64, 0, 2);  // into the second-level cache; past the end it does nothing
    }
};

// tile[rows][NV][width] += A[rows][depth] * panel[depth][NV][width], rows <= tile_rows. Row r of A begins at a[r], its
// elements STRIDE apart.
template <class S, int NV, int STRIDE = 1, class Source>
inline void product(Index rows, Index depth, const S* const* a, const Source& source, S* tile) {
    constexpr Index most = max_rows<NV>;
    const Index blocks = ceil_div(rows, most);
    for (Index k = 0; k < depth && rows > 0; k += pass_depth) {
        const Index now = min(pass_depth, depth - k);
        const S* panel = source.rows(k, now);
        Index r = 0;
        for (Index b = 0; b < blocks; ++b) {  // row blocks of nearly equal height
            const Index height = (rows - r + blocks - b - 1) / (blocks - b);
            source.expect(k, b, blocks);
            MicroTable<S, max_rows<NV>, NV, STRIDE>::run(height, now, a + r, k * STRIDE, panel, tile + r * NV * width<S>);
            r += height;
        }
    }
}
template <class S, int NV, int STRIDE = 1>
inline void product(Index rows, Index depth, const S* const* a, const S* panel, S* tile) {
    product<S, NV, STRIDE>(rows, depth, a, Panel<S, NV>{panel}, tile);
}

// The same for a number of vectors known at run time.
template <class S, int STRIDE = 1>
inline void product(int vectors, Index rows, Index depth, const S* const* a, const S* panel, S* tile) {
    switch (vectors) {
        case 1: return product<S, 1, STRIDE>(rows, depth, a, panel, tile);
        case 2: return product<S, 2, STRIDE>(rows, depth, a, panel, tile);
        case 3: return product<S, 3, STRIDE>(rows, depth, a, panel, tile);
        default: return product<S, 4, STRIDE>(rows, depth, a, panel, tile);
    }
}

// ---- bfloat16: values of S that fit its 8 bits of mantissa ------------------------------------------------------------

GG_INLINE Vec<float> round_bf16(Vec<float> x) {
    const Mask<float> bits = (Mask<float>)x;
    const Mask<float> rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff;  // to the nearest, ties to even
    return x == x ? (Vec<float>)rounded : x;
}
GG_INLINE Vec<double> round_bf16(Vec<double> x) { return x; }  // float64 has no short form

template <class S> inline void round_all(S* values, Index count) {
    for (Index i = 0; i < count; i += width<S>) {
        const Index left = min(width<S>, count - i);
        store(values + i, round_bf16(load(values + i, left)), left);
    }
}

// ---- Panels of gates: the same `width` units of G gates side by side -----------------------------------------------

// A square block of `width` rows and columns turned over its diagonal: log2(width) rounds, each of which swaps the halves
// that lie off the diagonal in blocks of twice `HALF`.
template <class S, int HALF, std::size_t... L>
GG_INLINE void swap_halves(Vec<S>* rows, std::index_sequence<L...>) {
    constexpr int W = static_cast<int>(width<S>);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
        if (i & HALF) continue;
        const Vec<S> a = rows[i], b = rows[i + HALF];
        rows[i] = __builtin_shuffle(a, b, Mask<S>{(L & HALF ? W + static_cast<int>(L) - HALF : static_cast<int>(L))...});
        rows[i + HALF] =
            __builtin_shuffle(a, b, Mask<S>{(L & HALF ? W + static_cast<int>(L) : static_cast<int>(L) + HALF)...});
    }
}
template <class S> GG_INLINE void transpose(Vec<S>* rows) {
    constexpr auto lanes = std::make_index_sequence<static_cast<std::size_t>(width<S>)>();
    swap_halves<S, 1>(rows, lanes);
    if constexpr (width<S> > 2) swap_halves<S, 2>(rows, lanes);
    if constexpr (width<S> > 4) swap_halves<S, 4>(rows, lanes);
    if constexpr (width<S> > 8) swap_halves<S, 8>(rows, lanes);
}

// Rows of a weight matrix [.][depth] become the lanes of a panel: panel[k][v][lane] = weight[v * apart + lane][k], zero
// from lane count[v] on. `stride` lies between the rows of `weight`.
template <class S>
inline void pack_transposed(const S* weight, Index stride, int vectors, Index apart, const Index* count, Index depth,
                            S* panel) {
    constexpr Index W = width<S>;
    for (int v = 0; v < vectors; ++v) {
        const S* from = weight + v * apart * stride;
        S* to = panel + v * W;
        for (Index k = 0; k < depth; k += W) {
            const Index now = min(W, depth - k);
            Vec<S> rows[W];
            for (Index lane = 0; lane < W; ++lane)
                rows[lane] = lane < count[v] ? load(from + lane * stride + k, now) : Vec<S>{};
            transpose<S>(rows);
            for (Index i = 0; i < now; ++i, to += vectors * W) store(to, rows[i]);
        }
    }
}

// Where a product finds its panel while the weights still lie in rows: it packs `pass_depth` of a panel's rows into
// `block` as they are needed. For calls that meet each weight once: nothing is written beyond the first-level cache.
template <class S> inline constexpr Index block_size = pass_depth * max_vectors * width<S>;
template <class S, int NV> struct Unpacked {
    const S* weight;  // the row of lane 0 of vector 0
    Index stride, apart;
    Index count[max_vectors];  // lanes of each vector that have a row
    bool bf16;
    S* block;
    const S* rows(Index k, Index now) const {
        pack_transposed(weight + k, stride, NV, apart, count, now, block);
        if (bf16) round_all(block, now * NV * width<S>);
        return block;
    }
    void expect(Index, Index, Index) const {}
};

// Units p * width ... of each gate in a row: weight [gates H][depth].
template <class S>
inline void pack_gate_panel(const S* weight, int gates, Index H, Index depth, Index p, S* panel) {
    const Index first = p * width<S>, count = min(width<S>, H - first);
    const Index counts[max_vectors] = {count, count, count, count};
    pack_transposed(weight + first * depth, depth, gates, H, counts, depth, panel);
}

// ---- Panels of columns: up to four vectors of neighbouring columns ---------------------------------------------------

// How `columns` are cut into panels: as many vectors in each as `most` allows, the last one narrower.
struct Columns {
    Index columns, most, lanes;  // lanes = most * width
    Index panels() const { return ceil_div(columns, lanes); }
    Index first(Index p) const { return p * lanes; }
    Index count(Index p) const { return min(lanes, columns - first(p)); }
    template <class S> int vectors(Index p) const { return static_cast<int>(ceil_div(count(p), width<S>)); }
    template <class S> Index packed(Index depth) const { return round_up(columns, width<S>) * depth; }
    Index offset(Index p, Index depth) const { return first(p) * depth; }  // of panel p, in the packed whole
};
template <class S> GG_INLINE Columns columns_of(Index columns, Index most = max_vectors) {
    return {columns, most, most * width<S>};
}

// Panel `p` from rows that may lie anywhere; a null row is a row of zeros.
template <class S>
inline void pack_column_panel(const S* const* rows, Index depth, const Columns& cut, Index p, S* panel) {
    constexpr Index W = width<S>;
    const Index count = cut.count(p), whole = count / W * W, lanes = round_up(count, W);
    for (Index k = 0; k < depth; ++k, panel += lanes) {
        if (rows[k] == nullptr) {
            for (Index c = 0; c < lanes; c += W) store(panel + c, Vec<S>{});
            continue;
        }
        const S* from = rows[k] + cut.first(p);
        for (Index c = 0; c < whole; c += W) store(panel + c, load(from + c));
        if (whole < lanes) store(panel + whole, load(from + whole, count - whole));
    }
}

// Panel `p` from a matrix [depth][columns], `stride` between its rows.
template <class S>
inline void pack_column_panel(const S* matrix, Index stride, Index depth, const Columns& cut, Index p, S* panel) {
    constexpr Index W = width<S>;
    const Index count = cut.count(p), whole = count / W * W, lanes = round_up(count, W);
    const S* from = matrix + cut.first(p);
    for (Index k = 0; k < depth; ++k, panel += lanes, from += stride) {
        for (Index c = 0; c < whole; c += W) store(panel + c, load(from + c));
        if (whole < lanes) store(panel + whole, load(from + whole, count - whole));
    }
}

// Panel `p` of the transpose of a matrix [columns][depth].
template <class S>
inline void pack_transposed_panel(const S* matrix, Index depth, const Columns& cut, Index p, S* panel) {
    const int vectors = cut.vectors<S>(p);
    Index counts[max_vectors];
    for (int v = 0; v < vectors; ++v) counts[v] = min(width<S>, cut.count(p) - v * width<S>);
    pack_transposed(matrix + cut.first(p) * depth, depth, vectors, width<S>, counts, depth, panel);
}

}  // namespace glassgate::kernels::GG_ISA
