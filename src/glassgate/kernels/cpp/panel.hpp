// Packing: weights, inputs and gradients into the panels that products read.
#pragma once

#include "product.hpp"

#include <utility>

namespace glassgate::kernels::GG_ISA {

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
template <class O, class S = Sum<O>>
inline void pack_transposed(const S* weight, Index stride, int vectors, Index apart, const Index* count, Index depth,
                            O* panel) {
    constexpr Index W = width<S>, together = Operand<O>::together;
    for (int v = 0; v < vectors; ++v) {
        const S* from = weight + v * apart * stride;
        O* to = panel + v * W * together;
        for (Index k = 0; k < deep<O>(depth); k += W) {
            const Index now = max(0, min(W, depth - k)), filled = min(W, deep<O>(depth) - k);
            Vec<S> rows[W];
            for (Index lane = 0; lane < W; ++lane)
                rows[lane] = lane < count[v] && now > 0 ? load(from + lane * stride + k, now) : Vec<S>{};
            transpose<S>(rows);
            for (Index i = 0; i < filled; i += together, to += vectors * W * together) put(to, rows + i);
        }
    }
}

// Where a product finds its panel while the weights still lie in rows: it packs what a pass reads into `block` as it is
// needed. For calls that meet each weight once: nothing is written beyond the first-level cache.
template <class O> inline constexpr Index block_size = most_pass<O> * max_vectors * width<Sum<O>>;
template <class O, int NV> struct Unpacked {
    const Sum<O>* weight;  // the row of lane 0 of vector 0
    Index stride, apart;
    Index count[max_vectors];  // lanes of each vector that have a row
    Index depth;
    O* block;
    const O* rows(Index k, Index now) const {
        pack_transposed(weight + k, stride, NV, apart, count, min(now, depth - k), block);
        return block;
    }
    Ahead ahead(Index, Index, Index, Index, Index) const { return {}; }
};

// Units p * width ... of each gate in a row: weight [gates H][depth].
template <class O, class S = Sum<O>>
inline void pack_gate_panel(const S* weight, int gates, Index H, Index depth, Index p, O* panel) {
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

// Panel `p` from rows that may lie anywhere, row_of(k) for each k; a null row is a row of zeros.
template <class O, class RowOf>
inline void pack_column_panel(const RowOf& row_of, Index depth, const Columns& cut, Index p, O* panel) {
    using S = Sum<O>;
    constexpr Index W = width<S>, together = Operand<O>::together;
    const Index count = cut.count(p), first = cut.first(p), filled = deep<O>(depth);
    for (Index k = 0; k < filled; k += together) {
        const S* from[together];
        for (Index i = 0; i < together; ++i) from[i] = k + i < depth ? row_of(k + i) : nullptr;
        for (Index c = 0; c < count; c += W, panel += W * together) {
            const Index lanes = min(W, count - c);
            Vec<S> rows[together];
            for (Index i = 0; i < together; ++i) rows[i] = from[i] == nullptr ? Vec<S>{} : load(from[i] + first + c, lanes);
            put(panel, rows);
        }
    }
}

// Panel `p` of the transpose of a matrix [columns][depth].
template <class O, class S = Sum<O>>
inline void pack_transposed_panel(const S* matrix, Index depth, const Columns& cut, Index p, O* panel) {
    const int vectors = cut.vectors<S>(p);
    Index counts[max_vectors];
    for (int v = 0; v < vectors; ++v) counts[v] = min(width<S>, cut.count(p) - v * width<S>);
    pack_transposed(matrix + cut.first(p) * depth, depth, vectors, width<S>, counts, depth, panel);
}

}  // namespace glassgate::kernels::GG_ISA
