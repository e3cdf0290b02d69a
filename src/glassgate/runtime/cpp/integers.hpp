// Sums of products of whole numbers, for the sketches of V: exact, so that every machine has the same.
#pragma once

#include "rows.hpp"

namespace glassgate::runtime {

constexpr Index lanes16 = 32;  // numbers of 16 bits in the widest vector, a cache line: what h is aligned and padded to
constexpr Index few = 4;       // rows, and h, that share each other's loads

// sums[r] = sum_j q[r][j] h[j] for the rows of a block, whose number is rounded up to `few` in sums; h is aligned.
void integer_products(Index rows, Index width, const std::int8_t* q, const std::int16_t* h, std::int32_t* sums);

// Several h [width], each aligned and padded with zeros to `stride`, laid out once for their products with many rows.
class Several {
  public:
    Several(Index width, Index stride, std::vector<const std::int16_t*> h);

    // sums[m * distance + r]; there are, in sums, rows and h up to a multiple of `padding`.
    static constexpr Index padding = 16;
    void products(Index rows, const std::int8_t* q, std::int32_t* sums, Index distance);

  private:
    static constexpr Index near = 16;  // rows that stay in the first-level cache while every h passes by

    const Index width_, stride_;
    const std::vector<const std::int16_t*> h_;
    std::vector<std::uint8_t> memory_;
    std::int16_t* wide_ = nullptr;   // some rows in 16 bits, `stride` apart
    std::uint8_t* tiles_ = nullptr;  // or all h, where there are tile registers
};

}  // namespace glassgate::runtime
