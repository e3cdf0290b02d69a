// Sums of products of whole numbers, for the sketches of V: exact, so that every machine has the same.
#pragma once

#include "rows.hpp"

namespace glassgate::runtime {

constexpr Index lanes16 = 32;  // numbers of 16 bits in the widest vector, a cache line: what h is aligned and padded to
constexpr Index several = 4;   // rows, and h, that share each other's loads

// sums[r] = sum_j q[r][j] h[j] for the rows of a block, whose number is rounded up to `several` in sums; h is aligned.
void integer_products(Index rows, Index width, const std::int8_t* q, const std::int16_t* h, std::int32_t* sums);

// The same for several h: sums[m * distance + r]. Rows in 16 bits, `stride` apart and padded as h is; there are, in q and in
// sums, rows up to a multiple of `several`, and in sums h as well.
void integer_products(Index rows, Index stride, const std::int16_t* q, Index count, const std::int16_t* const* h,
                      std::int32_t* sums, Index distance);

void widen(Index count, const std::int8_t* from, std::int16_t* to);

}  // namespace glassgate::runtime
