// Products of floats on tile registers that multiply bfloat16: a float is the sum of three of them.
//
// 24 bits are three times eight, so the sum is exact. Of the nine products of two sums, six are taken; the other three are below
// 2^-23 of the whole in the worst case and 2^-27 in the mean, about what a float's own last bit is worth (Henry, Tang and
// Heinecke 2019, arXiv:1904.06376). Tiles do sixteen times the arithmetic of vectors, so six products there cost less than
// one here. A number that is not finite makes NaN of its sums, and what lies below 2^-110 keeps eight of its bits.
#pragma once

#include "matrix_tiles.hpp"

namespace glassgate::kernels::GG_ISA {

// Of the values that share a row of a tile the first parts come first, then the second and the third ones.
struct Parts {
    std::uint16_t bits[3];
};
template <> struct Operand<Parts> {
    using Sum = float;
    static constexpr Index together = 2, unit = 32;
};
template <> struct TileRegisters<Parts> : WholeTiles {};
template <> GG_INLINE Index row_stride<Parts>(Index count) { return deep<Parts>(count) + Operand<Parts>::unit; }

// The largest part of x, in the upper half of each lane; x loses it.
GG_INLINE Mask<float> take_part(Vec<float>& x) {
    const Mask<float> part = nearest_bf16(x) & ~0xffff;
    x -= (Vec<float>)part;
    return part;
}

// A unit of a row: values of neighbouring k.
GG_INLINE void store_unit(Parts* to, Vec<float> low, Vec<float> high) {
    auto* at = reinterpret_cast<std::uint16_t*>(to);
    for (int part = 0; part < 3; ++part, at += 2 * width<float>) {
        const Halves first = __builtin_convertvector(take_part(low) >> 16, Halves);
        const Halves second = __builtin_convertvector(take_part(high) >> 16, Halves);
        std::memcpy(at, &first, sizeof first);
        std::memcpy(at + width<float>, &second, sizeof second);
    }
}

// One vector of a panel, as `put` of bfloat16.
GG_INLINE void put(Parts* to, const Vec<float>* rows) {
    auto* at = reinterpret_cast<std::uint16_t*>(to);
    Vec<float> even = rows[0], odd = rows[1];
    for (int part = 0; part < 3; ++part, at += 2 * width<float>) {
        const Mask<float> both = ((take_part(even) >> 16) & 0xffff) | take_part(odd);
        std::memcpy(at, &both, sizeof both);
    }
}

namespace matrix_tiles {

template <> inline constexpr Index pass<Parts> = 64;
inline constexpr Index products = 6;  // of two sums of three

// Up to 16 rows, one to four vectors. Each product asks for a line of what comes after, from `next` on.
template <int NV>
inline void one_block(Index rows, Index depth, const Parts* const* a, Index k, const Parts* panel, float* tile, const char* next) {
    constexpr Index line = 64, vector = 3 * line, lanes = NV * vector;
    Rows<Parts> A;
    A.find(rows, depth, a, k);
    Sums<NV> sums(tile, rows);
    sums.load();
    for (Index at = 0; at < depth; at += Operand<Parts>::unit) {
        const char* row = reinterpret_cast<const char*>(A.first + at);
        const char* b = reinterpret_cast<const char*>(panel + at * NV * side);
        _tile_loadd(4, row, A.stride);
        _tile_loadd(5, row + line, A.stride);
        _tile_loadd(6, row + 2 * line, A.stride);
// The first parts of B meet all of A's, the second ones two, the third ones one. Numbers of tiles are words of the source.
#define GG_PRODUCT(v, a, b)   \
    _tile_dpbf16ps(v, a, b);  \
    next = ask<1>(next);
#define GG_FIRST(v)                             \
    if constexpr (NV > v) {                     \
        _tile_loadd(7, b + v * vector, lanes);  \
        GG_PRODUCT(v, 6, 7)                     \
        GG_PRODUCT(v, 5, 7)                     \
        GG_PRODUCT(v, 4, 7)                     \
    }
#define GG_OTHERS(v)                                       \
    if constexpr (NV > v) {                                \
        _tile_loadd(6, b + v * vector + line, lanes);      \
        _tile_loadd(7, b + v * vector + 2 * line, lanes);  \
        GG_PRODUCT(v, 4, 7)                                \
        GG_PRODUCT(v, 5, 6)                                \
        GG_PRODUCT(v, 4, 6)                                \
    }
        GG_FIRST(0) GG_FIRST(1) GG_FIRST(2) GG_FIRST(3)
        GG_OTHERS(0) GG_OTHERS(1) GG_OTHERS(2) GG_OTHERS(3)
#undef GG_PRODUCT
#undef GG_FIRST
#undef GG_OTHERS
    }
    sums.store();
}

template <int NV, class Source>
inline void product(Index rows, Index depth, const Parts* const* a, const Source& source, float* tile) {
    for (Index k = 0; k < depth; k += pass<Parts>) {
        const Index now = min(pass<Parts>, depth - k);
        const Parts* panel = source.rows(k, now);
        const char* next = reinterpret_cast<const char*>(panel + now * NV * side);
        for (Index r = 0; r < rows; r += side, next += now / Operand<Parts>::unit * products * NV * 64)
            one_block<NV>(min(side, rows - r), now, a + r, k, panel, tile + r * NV * side, next);
    }
}

}  // namespace matrix_tiles

}  // namespace glassgate::kernels::GG_ISA
