// Products of rows of int8 with several h of 16 bits on tile registers.
#pragma once

#include <cstdint>

namespace glassgate::runtime {

using Index = std::int64_t;

// `count` h [width] as tiles: their bytes, and the tiles themselves, at a multiple of 64 bytes.
Index tiled_bytes(Index width, Index count);
void tile(Index width, Index count, const std::int16_t* const* h, std::uint8_t* to);

// sums[m * distance + r] = sum_k q[r][k] h[m][k]; there are, in sums, rows and h up to a multiple of 16.
void tile_products(Index rows, Index width, const std::int8_t* q, Index count, const std::uint8_t* h, std::int32_t* sums,
                   Index distance);

}  // namespace glassgate::runtime
