// What enters a product: numbers of S as they are, or rounded to bfloat16, the upper half of a float.
//
// Where instructions multiply bfloat16 they read two at a time: the values of k and k + 1 lie side by side in one lane of a
// panel, and the depth is filled up with zeros to whole units, in the rows and in the panels alike. Elsewhere a rounded
// value stays a float: to widen it again and again would cost more than its shortness gains. Sums and states are float.
#pragma once

#include "simd.hpp"

namespace glassgate::kernels::GG_ISA {

GG_INLINE Index min(Index a, Index b) { return a < b ? a : b; }
GG_INLINE Index max(Index a, Index b) { return a > b ? a : b; }
GG_INLINE Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
GG_INLINE Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

#if defined(__AVX512BF16__)
struct Bf16 {
    std::uint16_t bits;
};
#else
struct Bf16 {
    float value;
};
#endif

// `together`: how many values of k share a lane. `unit`: what the depth of a product is a multiple of.
template <class O> struct Operand {
    using Sum = O;
    static constexpr Index together = 1, unit = 1;
};
template <> struct Operand<Bf16> {
    using Sum = float;
#if defined(__AMX_BF16__)
    static constexpr Index together = 2, unit = 32;  // a row of a tile
#elif defined(__AVX512BF16__)
    static constexpr Index together = 2, unit = 2;
#else
    static constexpr Index together = 1, unit = 1;
#endif
};
template <class O> using Sum = typename Operand<O>::Sum;
template <class O> GG_INLINE Index deep(Index depth) { return round_up(depth, Operand<O>::unit); }

// Registers that a thread sets up for its part of a call: none, but for tiles (matrix_tiles.hpp).
template <class O> struct TileRegisters {};

// Rows of operands that begin on lines of the cache; one more, so that rows share no cache set.
template <class O> GG_INLINE Index row_stride(Index count) {
    const Index line = max(64 / static_cast<Index>(sizeof(O)), width<Sum<O>>);
    return round_up(deep<O>(count), line) + line;
}

// The nearest bfloat16, ties to even, in the upper half of each lane; the lower half is anything. NaN stays NaN.
GG_INLINE Mask<float> nearest_bf16(Vec<float> x) {
    const Mask<float> bits = (Mask<float>)x;
    return x == x ? bits + 0x7fff + ((bits >> 16) & 1) : (bits | 0x400000);
}

typedef std::uint16_t Halves __attribute__((vector_size(GG_VECTOR_BYTES / 2)));

GG_INLINE void store_rounded(std::uint16_t* to, Vec<float> x, Index count) {
    const Halves halves = __builtin_convertvector(nearest_bf16(x) >> 16, Halves);
    if (count >= width<float>) std::memcpy(to, &halves, sizeof halves);
    else for (Index i = 0; i < count; ++i) to[i] = halves[i];
}
// The first `count` values as they lie, each in the lower half of its lane.
GG_INLINE Mask<float> load_bits(const std::uint16_t* from, Index count) {
    Halves halves{};
    if (count >= width<float>) std::memcpy(&halves, from, sizeof halves);
    else for (Index i = 0; i < count; ++i) halves[i] = from[i];
    return __builtin_convertvector(halves, Mask<float>);
}
GG_INLINE Vec<float> load_widened(const std::uint16_t* from, Index count) { return (Vec<float>)(load_bits(from, count) << 16); }

#if defined(__AVX512BF16__)
GG_INLINE void store(Bf16* to, Vec<float> x, Index count) { store_rounded(&to->bits, x, count); }
GG_INLINE Mask<float> load_bits(const Bf16* from, Index count) { return load_bits(&from->bits, count); }
GG_INLINE Vec<float> load(const Bf16* from, Index count) { return load_widened(&from->bits, count); }
#else
GG_INLINE void store(Bf16* to, Vec<float> x, Index count) {
    store(&to->value, (Vec<float>)(nearest_bf16(x) & ~0xffff), count);
}
GG_INLINE Vec<float> load(const Bf16* from, Index count) { return load(&from->value, count); }
#endif

// One vector of a panel: the values of `together` neighbouring k for each lane.
template <class S> GG_INLINE void put(S* to, const Vec<S>* rows) { store(to, rows[0]); }
GG_INLINE void put(Bf16* to, const Vec<float>* rows) {
    if constexpr (Operand<Bf16>::together == 2) {
        const Mask<float> both = ((nearest_bf16(rows[0]) >> 16) & 0xffff) | (nearest_bf16(rows[1]) & ~0xffff);
        std::memcpy(to, &both, sizeof both);
    } else {
        store(to, rows[0], width<float>);
    }
}

}  // namespace glassgate::kernels::GG_ISA
