// Matrix products with the right-hand side packed into panels.
//
// A panel holds NV vectors for each k, one after the other: [K][NV][width]; where an instruction multiplies bfloat16, for
// each two: [K / 2][NV][width][2].
// A product adds rows of A times one panel to a tile [rows][NV][width] that lies in the first-level cache. It passes over
// `pass_depth` values of k at a time: each element of the tile grows by one chain of fused multiply-adds from zero for each
// pass. The order of all sums depends on K alone, not on the number of rows, the width of the panel or the thread: this is
// what makes results independent of all three, bit for bit; and short chains keep the rounding errors of long sums small.
#pragma once

#include "operand.hpp"
#if defined(__AMX_BF16__)
#include "matrix_tiles.hpp"
#include "parts.hpp"
#endif

#include <cstddef>
#include <type_traits>

namespace glassgate::kernels::GG_ISA {

inline constexpr Index tile_rows = 64;   // rows of a tile: with a panel block of 16 KB it fits a 32 KB cache
inline constexpr int max_vectors = 4;    // vectors of a panel
template <class S> inline constexpr Index tile_size = tile_rows * max_vectors * width<S>;

#ifndef GG_PASS
#define GG_PASS 128
#endif
inline constexpr Index pass_depth = GG_PASS;

// The part of `count` things that thread `rank` of `size` does.
struct Range {
    Index begin, end;
};
GG_INLINE Range share(Index count, Index rank, Index size) { return {count * rank / size, count * (rank + 1) / size}; }

// Rows of a block. Registers: rows * NV accumulators, NV weights and a broadcast. 32 of them with AVX-512, 16 elsewhere.
#if defined(__AVX512F__) || defined(GG_MANY_REGISTERS)
template <int NV> inline constexpr int register_rows = NV == 4 ? 6 : NV == 3 ? 8 : 12;
#else
template <int NV> inline constexpr int register_rows = NV == 4 ? 3 : NV == 3 ? 4 : 6;
#endif
template <class O, int NV> inline constexpr int max_rows = register_rows<NV>;
template <class O> inline constexpr Index most_pass = pass_depth;
#if defined(__AMX_BF16__)
template <int NV> inline constexpr int max_rows<Bf16, NV> = matrix_tiles::side;
template <int NV> inline constexpr int max_rows<Parts, NV> = matrix_tiles::side;
template <> inline constexpr Index most_pass<Bf16> = matrix_tiles::pass<Bf16>;
#endif

// tile[R][NV][width] += a[r][k * STRIDE] * panel[k][NV][width].
template <class S, int R, int NV, int STRIDE, int LINES>
GG_INLINE void micro(Index depth, const S* const* a, Index offset, const S* panel, S* tile, const char* next) {
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
        next = ask<LINES>(next);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            S* to = tile + (r * NV + v) * W;
            store(to, load(to) + sum[r][v]);
        }
}

#if defined(__AVX512BF16__)
// tile[R][NV][width] += a[r][k] * panel[k / 2][NV][width][2].
template <int R, int NV, int LINES>
GG_INLINE void micro(Index depth, const Bf16* const* a, Index offset, const Bf16* panel, float* tile, const char* next) {
    constexpr Index W = width<float>;
    Vec<float> sum[R][NV];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = Vec<float>{};
    for (Index k = 0; k < depth; k += 2, panel += 2 * NV * W) {
        __m512bh weight[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) weight[v] = (__m512bh)_mm512_loadu_si512(panel + v * 2 * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            std::int32_t two;
            std::memcpy(&two, a[r] + offset + k, sizeof two);
            const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sum[r][v] = (Vec<float>)_mm512_dpbf16_ps((__m512)sum[r][v], x, weight[v]);
        }
        next = ask<LINES>(next);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            float* to = tile + (r * NV + v) * W;
            store(to, load(to) + sum[r][v]);
        }
}
#endif

template <class O, int R, int NV, int STRIDE, int LINES> struct MicroTable {
    static __attribute__((noinline)) void call(Index depth, const O* const* a, Index offset, const O* panel, Sum<O>* tile,
                                               const char* next) {
        using S = Sum<O>;
        if constexpr (std::is_same_v<O, S>) {
            micro<S, R, NV, STRIDE, LINES>(depth, a, offset, panel, tile, next);
        } else if constexpr (Operand<O>::together == 2) {
            micro<R, NV, LINES>(depth, a, offset, panel, tile, next);
        } else {
            const S* rows[R];
            for (int r = 0; r < R; ++r) rows[r] = &a[r]->value;
            micro<S, R, NV, STRIDE, LINES>(depth, rows, offset, &panel->value, tile, next);
        }
    }
    static GG_INLINE void run(Index rows, Index depth, const O* const* a, Index offset, const O* panel, Sum<O>* tile,
                              const char* next) {
        if (rows == R) return call(depth, a, offset, panel, tile, next);
        if constexpr (R > 1) MicroTable<O, R - 1, NV, STRIDE, LINES>::run(rows, depth, a, offset, panel, tile, next);
    }
};

// What a block of rows asks for while it is multiplied: so many lines for each k, or pair of k, from `next` on.
struct Ahead {
    const char* next = nullptr;
    int lines = 0;
};

// Where a product finds the rows k to k + count of a panel: here they lie in the panel.
template <class O, int NV> struct Panel {
    const O* panel;
    const O* rows(Index k, Index) const { return panel + k * NV * width<Sum<O>>; }

    // What block b of `blocks` asks for of the pass that lies behind the one at k: in this panel or at the beginning of the
    // next, which is most often what comes next. Short panels come as fast without it, and so does all for next to no rows.
    GG_INLINE Ahead ahead(Index k, Index b, Index blocks, Index rows_of_a, Index depth) const {
        constexpr Index row = NV * width<Sum<O>> * static_cast<Index>(sizeof(O)), is_short = 96 * 1024;
        constexpr Index lines = pass_depth * row / 64, times = pass_depth / Operand<O>::together;
        if (rows_of_a < 4 || depth * row < is_short) return {};
        const Index each = ceil_div(lines, blocks * times), first = b * times * each;
        if (first >= lines) return {};
        return {reinterpret_cast<const char*>(rows(k + pass_depth, 0)) + first * 64, static_cast<int>(each)};
    }
};

template <class O, int NV, int STRIDE, class Source>
inline void product_of_vectors(Index rows, Index depth, const O* const* a, const Source& source, Sum<O>* tile) {
    constexpr Index most = max_rows<O, NV>;
    const Index blocks = ceil_div(rows, most);
    for (Index k = 0; k < depth && rows > 0; k += pass_depth) {
        const Index now = min(pass_depth, depth - k);
        const O* panel = source.rows(k, now);
        Index r = 0;
        for (Index b = 0; b < blocks; ++b) {  // row blocks of nearly equal height
            const Index height = (rows - r + blocks - b - 1) / (blocks - b);
            const Ahead ahead = source.ahead(k, b, blocks, rows, depth);
            const auto multiply = [&](auto lines) {
                MicroTable<O, most, NV, STRIDE, decltype(lines)::value>::run(height, now, a + r, k * STRIDE, panel,
                                                                             tile + r * NV * width<Sum<O>>, ahead.next);
            };
            if (ahead.lines == 0) multiply(std::integral_constant<int, 0>());
            else if (ahead.lines == 1) multiply(std::integral_constant<int, 1>());
            else if (ahead.lines == 2) multiply(std::integral_constant<int, NV < 2 ? NV : 2>());
            else multiply(std::integral_constant<int, NV>());
            r += height;
        }
    }
}

// tile[rows][NV][width] += A[rows][depth] * panel[depth][NV][width], rows <= tile_rows. Row r of A begins at a[r], its
// elements STRIDE apart.
template <class O, int NV, int STRIDE = 1, class Source>
inline void product(Index rows, Index depth, const O* const* a, const Source& source, Sum<O>* tile) {
#if defined(__AMX_BF16__)
    if constexpr (Operand<O>::together == 2) matrix_tiles::product<NV>(rows, deep<O>(depth), a, source, tile);
    else
#endif
        product_of_vectors<O, NV, STRIDE>(rows, deep<O>(depth), a, source, tile);
}
template <class O, int NV, int STRIDE = 1>
inline void product(Index rows, Index depth, const O* const* a, const O* panel, Sum<O>* tile) {
    product<O, NV, STRIDE>(rows, depth, a, Panel<O, NV>{panel}, tile);
}

// The same for a number of vectors known at run time.
template <class O, int STRIDE = 1>
inline void product(int vectors, Index rows, Index depth, const O* const* a, const O* panel, Sum<O>* tile) {
    switch (vectors) {
        case 1: return product<O, 1, STRIDE>(rows, depth, a, panel, tile);
        case 2: return product<O, 2, STRIDE>(rows, depth, a, panel, tile);
        case 3: return product<O, 3, STRIDE>(rows, depth, a, panel, tile);
        default: return product<O, 4, STRIDE>(rows, depth, a, panel, tile);
    }
}

}  // namespace glassgate::kernels::GG_ISA
