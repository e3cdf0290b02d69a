// Products of bfloat16 on tile registers (AMX): 16 rows of 32 values times 32 rows of 16 lanes, added to 16 x 16 floats.
//
// What a tile holds of a panel is what lies there: 16 pairs of k, each with 16 lanes of two. The sums of an element depend
// on the depth alone: a chain over its tiles that begins with what the element was.
#pragma once

#include "operand.hpp"

namespace glassgate::kernels::GG_ISA {

// Every tile is a whole one. A thread sets them up for its part of a call, and gives them back so that others find none.
struct WholeTiles {
    WholeTiles() {
        struct alignas(64) {
            std::uint8_t palette = 1, start = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } const shapes;
        _tile_loadconfig(&shapes);
    }
    WholeTiles(const WholeTiles&) = delete;
    WholeTiles& operator=(const WholeTiles&) = delete;
    ~WholeTiles() { _tile_release(); }
};
template <> struct TileRegisters<Bf16> : WholeTiles {};

namespace matrix_tiles {

inline constexpr Index side = 16;  // rows of a tile, and lanes
// Depth of a pass: its panel stays in the first-level cache for all rows.
template <class O> inline constexpr Index pass = 256;

// The compiler does not know what the tile instructions read.
GG_INLINE void settle() { __asm__ volatile("" ::: "memory"); }

// 16 rows of A from `k` on, where they lie if they lie evenly, else copied to `own`; absent rows are anything.
template <class O> struct Rows {
    const O* first;
    Index stride;  // in bytes
    alignas(64) O own[side * pass<O>];

    GG_INLINE void find(Index rows, Index depth, const O* const* a, Index k) {
        const Index apart = rows > 1 ? a[1] - a[0] : 0;
        bool even = rows == side;
        for (Index r = 2; even && r < side; ++r) even = a[r] - a[r - 1] == apart;
        first = even ? a[0] + k : own;
        stride = (even ? apart : depth) * static_cast<Index>(sizeof(O));
        for (Index r = 0; !even && r < rows; ++r)
            std::memcpy(own + r * depth, a[r] + k, static_cast<std::size_t>(depth) * sizeof(O));
    }
};

// 16 rows of sums, in place or, where there are fewer, in a copy.
template <int NV> struct Sums {
    GG_INLINE Sums(float* tile, Index rows) : tile(tile), rows(rows) {}
    float* const tile;
    const Index rows;
    alignas(64) float own[side * NV * side];
    GG_INLINE float* place() { return rows < side ? own : tile; }
    GG_INLINE float* open() {
        if (rows < side) std::memcpy(own, tile, bytes());
        return place();
    }
    GG_INLINE void close() const {
        if (rows < side) std::memcpy(tile, own, bytes());
    }

    // The same into the tiles 0 to NV - 1, and back.
    static constexpr Index apart = NV * 64;
    GG_INLINE void load() {
        const float* c = open();
        settle();
        _tile_loadd(0, c, apart);
        if constexpr (NV > 1) _tile_loadd(1, c + side, apart);
        if constexpr (NV > 2) _tile_loadd(2, c + 2 * side, apart);
        if constexpr (NV > 3) _tile_loadd(3, c + 3 * side, apart);
    }
    GG_INLINE void store() {
        float* c = place();
        _tile_stored(0, c, apart);
        if constexpr (NV > 1) _tile_stored(1, c + side, apart);
        if constexpr (NV > 2) _tile_stored(2, c + 2 * side, apart);
        if constexpr (NV > 3) _tile_stored(3, c + 3 * side, apart);
        settle();
        close();
    }

    std::size_t bytes() const { return static_cast<std::size_t>(rows * NV * side) * sizeof(float); }
};

// Up to 16 rows, one to four vectors.
template <int NV>
inline void one_block(Index rows, Index depth, const Bf16* const* a, Index k, const Bf16* panel, float* tile) {
    constexpr Index apart = NV * 64;
    Rows<Bf16> A;
    A.find(rows, depth, a, k);
    Sums<NV> sums(tile, rows);
    sums.load();
    for (Index at = 0; at < depth; at += 32) {
        const Bf16* b = panel + at * NV * side;
        _tile_loadd(4, A.first + at, A.stride);
        _tile_loadd(5, b, apart);
        _tile_dpbf16ps(0, 4, 5);
        if constexpr (NV > 1) {
            _tile_loadd(6, b + 32, apart);
            _tile_dpbf16ps(1, 4, 6);
        }
        if constexpr (NV > 2) {
            _tile_loadd(7, b + 64, apart);
            _tile_dpbf16ps(2, 4, 7);
        }
        if constexpr (NV > 3) {
            _tile_loadd(5, b + 96, apart);
            _tile_dpbf16ps(3, 4, 5);
        }
    }
    sums.store();
}

// 17 to 32 rows, one or two vectors: four sums at once, so that none waits for its own last one.
template <int NV>
inline void two_blocks(Index rows, Index depth, const Bf16* const* a, Index k, const Bf16* panel, float* tile) {
    constexpr Index apart = NV * 64;
    Rows<Bf16> A, B;
    A.find(side, depth, a, k);
    B.find(rows - side, depth, a + side, k);
    Sums<NV> sums(tile + side * NV * side, rows - side);
    float* c = sums.open();
    settle();
    _tile_loadd(0, tile, apart);
    _tile_loadd(2, c, apart);
    if constexpr (NV > 1) {
        _tile_loadd(1, tile + side, apart);
        _tile_loadd(3, c + side, apart);
    }
    for (Index at = 0; at < depth; at += 32) {
        const Bf16* b = panel + at * NV * side;
        _tile_loadd(4, A.first + at, A.stride);
        _tile_loadd(6, b, apart);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, B.first + at, B.stride);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (NV > 1) {
            _tile_loadd(7, b + 32, apart);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, tile, apart);
    _tile_stored(2, c, apart);
    if constexpr (NV > 1) {
        _tile_stored(1, tile + side, apart);
        _tile_stored(3, c + side, apart);
    }
    settle();
    sums.close();
}

template <int NV, class Source>
inline void product(Index rows, Index depth, const Bf16* const* a, const Source& source, float* tile) {
    for (Index k = 0; k < depth && rows > 0; k += pass<Bf16>) {
        const Index now = min(pass<Bf16>, depth - k);
        const Bf16* panel = source.rows(k, now);
        Index r = 0;
        if constexpr (NV <= 2)
            for (; rows - r > side; r += 2 * side)
                two_blocks<NV>(min(2 * side, rows - r), now, a + r, k, panel, tile + r * NV * side);
        for (; r < rows; r += side) one_block<NV>(min(side, rows - r), now, a + r, k, panel, tile + r * NV * side);
    }
}

}  // namespace matrix_tiles

}  // namespace glassgate::kernels::GG_ISA
