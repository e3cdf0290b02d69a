// Products of int8 with 16 bits on tile registers (AMX): 16 rows with 16 h at once. A number of 16 bits is 256 times its upper
// byte, which has a sign, and its lower one, which has none; each has an instruction for its products with int8.
//
// Compiled for AVX-512 and AMX: called where the machine has them (machine.cpp).
#include "tiles.hpp"

#include <cstring>
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 sees it in its own header
#include <immintrin.h>

namespace glassgate::runtime {

namespace {

constexpr Index side = 16, depth = 64;       // rows of a tile, and its bytes across: k of a row, four k of each h
constexpr Index tile_bytes = side * depth;

struct WholeTiles {
    WholeTiles() {
        struct alignas(64) {
            std::uint8_t palette = 1, start = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } const shapes;
        _tile_loadconfig(&shapes);
    }
    ~WholeTiles() { _tile_release(); }
};

// to[m * distance + r] = 256 high[r][m] + low[r][m].
void join(const std::int32_t* high, const std::int32_t* low, std::int32_t* to, Index distance) {
    __m512i a[side], b[side];
    for (Index r = 0; r < side; ++r)
        a[r] = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high + r * side), 8), _mm512_load_si512(low + r * side));
    for (Index r = 0; r < side; r += 2) {
        b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
    }
    for (Index r = 0; r < side; r += 4) {  // now four rows side by side: a[r + i] has those of the h i, i + 4, i + 8, i + 12
        a[r] = _mm512_unpacklo_epi64(b[r], b[r + 2]);
        a[r + 1] = _mm512_unpackhi_epi64(b[r], b[r + 2]);
        a[r + 2] = _mm512_unpacklo_epi64(b[r + 1], b[r + 3]);
        a[r + 3] = _mm512_unpackhi_epi64(b[r + 1], b[r + 3]);
    }
    for (Index i = 0; i < 4; ++i) {
        const __m512i upper_even = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), upper_odd = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd);
        const __m512i lower_even = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        const __m512i lower_odd = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_si512(to + i * distance, _mm512_shuffle_i32x4(upper_even, lower_even, 0x88));
        _mm512_storeu_si512(to + (i + 4) * distance, _mm512_shuffle_i32x4(upper_odd, lower_odd, 0x88));
        _mm512_storeu_si512(to + (i + 8) * distance, _mm512_shuffle_i32x4(upper_even, lower_even, 0xdd));
        _mm512_storeu_si512(to + (i + 12) * distance, _mm512_shuffle_i32x4(upper_odd, lower_odd, 0xdd));
    }
}

}  // namespace

Index tiled_bytes(Index width, Index count) {
    return (width + depth - 1) / depth * ((count + side - 1) / side) * 2 * tile_bytes;
}

void tile(Index width, Index count, const std::int16_t* const* h, std::uint8_t* to) {
    std::memset(to, 0, static_cast<std::size_t>(tiled_bytes(width, count)));
    const Index blocks = (width + depth - 1) / depth;
    for (Index m = 0; m < count; ++m) {
        std::uint8_t* const column = to + m / side * blocks * 2 * tile_bytes + m % side * 4;
        for (Index k = 0; k < width; ++k) {
            std::uint8_t* const at = column + k / depth * 2 * tile_bytes + k % depth / 4 * depth + k % 4;
            at[0] = static_cast<std::uint8_t>(h[m][k] >> 8);
            at[tile_bytes] = static_cast<std::uint8_t>(h[m][k] & 255);
        }
    }
}

void tile_products(Index rows, Index width, const std::int8_t* q, Index count, const std::uint8_t* h, std::int32_t* sums,
                   Index distance) {
    const WholeTiles tiles;
    const Index blocks = (width + depth - 1) / depth;
    alignas(64) std::int8_t own[tile_bytes];
    alignas(64) std::int32_t high[2][side * side], low[2][side * side];
    for (Index r = 0; r < rows; r += side) {
        const Index some = rows - r < side ? rows - r : side;
        for (Index m = 0; m < count; m += 2 * side) {
            const std::uint8_t* const first = h + m / side * blocks * 2 * tile_bytes;
            const bool two = m + side < count;
            const std::uint8_t* const second = two ? first + blocks * 2 * tile_bytes : first;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (Index block = 0; block < blocks; ++block) {
                const std::int8_t* from = q + r * width + block * depth;
                const Index across = width - block * depth < depth ? width - block * depth : depth;
                if (some == side && across == depth) {
                    _tile_loadd(4, from, width);
                } else {
                    std::memset(own, 0, sizeof own);
                    for (Index i = 0; i < some; ++i) std::memcpy(own + i * depth, from + i * width, static_cast<std::size_t>(across));
                    __asm__ volatile("" ::: "memory");  // the compiler does not know what the tile instructions read
                    _tile_loadd(4, own, depth);
                }
                if (m == 0)  // of what comes next: there is arithmetic to wait for it
                    for (Index i = 0; i < side; ++i) _mm_prefetch(from + (side + i) * width, _MM_HINT_T0);
                const Index at = block * 2 * tile_bytes;
                _tile_loadd(5, first + at, depth);
                _tile_dpbssd(0, 4, 5);
                _tile_loadd(6, first + at + tile_bytes, depth);
                _tile_dpbsud(1, 4, 6);
                if (!two) continue;
                _tile_loadd(7, second + at, depth);
                _tile_dpbssd(2, 4, 7);
                _tile_loadd(5, second + at + tile_bytes, depth);
                _tile_dpbsud(3, 4, 5);
            }
            _tile_stored(0, high[0], side * 4);
            _tile_stored(1, low[0], side * 4);
            _tile_stored(2, high[1], side * 4);
            _tile_stored(3, low[1], side * 4);
            __asm__ volatile("" ::: "memory");
            join(high[0], low[0], sums + m * distance + r, distance);
            if (two) join(high[1], low[1], sums + (m + side) * distance + r, distance);
        }
    }
}

}  // namespace glassgate::runtime
