#include "integers.hpp"

#include "machine.hpp"
#include "tiles.hpp"

#include <algorithm>

#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 sees it in its own header
#include <immintrin.h>
#endif

namespace glassgate::runtime {

namespace {

void plain_products(Index rows, Index width, const std::int8_t* q, const std::int16_t* h, std::int32_t* sums) {
    for (Index r = 0; r < rows; ++r) {
        std::int32_t sum = 0;
        for (Index j = 0; j < width; ++j) sum += std::int32_t(q[r * width + j]) * h[j];
        sums[r] = sum;
    }
}

void plain_products(Index rows, Index stride, const std::int16_t* q, Index count, const std::int16_t* const* h,
                    std::int32_t* sums, Index distance) {
    for (Index m = 0; m < count; ++m) {
        for (Index r = 0; r < rows; ++r) {
            std::int32_t sum = 0;
            for (Index j = 0; j < stride; ++j) sum += std::int32_t(q[r * stride + j]) * h[m][j];
            sums[m * distance + r] = sum;
        }
    }
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx2,avx512f,avx512bw,avx512vnni")))  // multiplies, sums pairs and adds in one

constexpr Index ahead = 4096;  // bytes that are asked for before they are needed

AVX2 INLINE __m256i at(const std::int16_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }
VNNI INLINE __m512i all_at(const std::int16_t* from) { return _mm512_load_si512(from); }

// The sums of the numbers in a, b, c and d, side by side.
AVX2 INLINE __m128i halves(__m256i x) { return _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)); }
AVX2 INLINE __m128i totals(__m256i a, __m256i b, __m256i c, __m256i d) {
    const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    return halves(_mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd)));
}
VNNI INLINE __m128i totals(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    return halves(_mm256_add_epi32(_mm512_extracti64x4_epi64(all, 0), _mm512_extracti64x4_epi64(all, 1)));
}
INLINE void store(std::int32_t* to, __m128i sums) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), sums); }

// The loops stand here once for each set: none may inline what is compiled for another.

// What the last vectors leave of a row.
INLINE void add_rest(Index from, Index width, const std::int8_t* const* rows, const std::int16_t* h, std::int32_t* sums) {
    for (Index i = 0; i < few; ++i)
        for (Index j = from; j < width; ++j) sums[i] += std::int32_t(rows[i][j]) * h[j];
}

AVX2 void avx2_products(Index rows, Index width, const std::int8_t* q, const std::int16_t* h, std::int32_t* sums) {
    constexpr Index lanes = lanes16 / 2;
    for (Index r = 0; r < rows; r += few) {
        const std::int8_t* row[few];
        for (Index i = 0; i < few; ++i) row[i] = q + std::min(r + i, rows - 1) * width;
        __m256i part[few] = {};
        Index j = 0;
        for (; j + lanes <= width; j += lanes) {
            const __m256i x = at(h + j);
            for (Index i = 0; i < few; ++i) {
                const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[i] + j));
                part[i] = _mm256_add_epi32(part[i], _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(v)));
            }
            _mm_prefetch(reinterpret_cast<const char*>(row[0] + few * j + ahead), _MM_HINT_T0);
        }
        store(sums + r, totals(part[0], part[1], part[2], part[3]));
        add_rest(j, width, row, h, sums + r);
    }
}

VNNI void vnni_products(Index rows, Index width, const std::int8_t* q, const std::int16_t* h, std::int32_t* sums) {
    for (Index r = 0; r < rows; r += few) {
        const std::int8_t* row[few];
        for (Index i = 0; i < few; ++i) row[i] = q + std::min(r + i, rows - 1) * width;
        __m512i part[few] = {};
        Index j = 0;
        for (; j + lanes16 <= width; j += lanes16) {
            const __m512i x = all_at(h + j);
            for (Index i = 0; i < few; ++i) {
                const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[i] + j));
                part[i] = _mm512_dpwssd_epi32(part[i], x, _mm512_cvtepi8_epi16(v));
            }
            for (Index line = 0; line < few * lanes16; line += 64)
                _mm_prefetch(reinterpret_cast<const char*>(row[0] + few * j + line + ahead), _MM_HINT_T0);
        }
        store(sums + r, totals(part[0], part[1], part[2], part[3]));
        add_rest(j, width, row, h, sums + r);
    }
}

AVX2 void avx2_products(Index rows, Index stride, const std::int16_t* q, Index count, const std::int16_t* const* h,
                        std::int32_t* sums, Index distance) {
    constexpr Index pair = few / 2;  // h at once: there are 16 registers
    for (Index m = 0; m < count; m += pair) {
        const std::int16_t *x = h[m], *y = h[std::min(m + 1, count - 1)];
        for (Index r = 0; r < rows; r += few) {
            const std::int16_t* const row = q + r * stride;
            __m256i of_x[few] = {}, of_y[few] = {};
            for (Index j = 0; j < stride; j += lanes16 / 2) {
                const __m256i a = at(x + j), b = at(y + j);
                for (Index i = 0; i < few; ++i) {
                    const __m256i v = at(row + i * stride + j);
                    of_x[i] = _mm256_add_epi32(of_x[i], _mm256_madd_epi16(a, v));
                    of_y[i] = _mm256_add_epi32(of_y[i], _mm256_madd_epi16(b, v));
                }
            }
            store(sums + m * distance + r, totals(of_x[0], of_x[1], of_x[2], of_x[3]));
            store(sums + (m + 1) * distance + r, totals(of_y[0], of_y[1], of_y[2], of_y[3]));
        }
    }
}

VNNI void vnni_products(Index rows, Index stride, const std::int16_t* q, Index count, const std::int16_t* const* h,
                        std::int32_t* sums, Index distance) {
    for (Index m = 0; m < count; m += few) {
        const std::int16_t* x[few];
        for (Index k = 0; k < few; ++k) x[k] = h[std::min(m + k, count - 1)];
        for (Index r = 0; r < rows; r += few) {
            const std::int16_t* const row = q + r * stride;
            __m512i part[few][few] = {};
            for (Index j = 0; j < stride; j += lanes16) {
                __m512i v[few];
                for (Index i = 0; i < few; ++i) v[i] = all_at(row + i * stride + j);
                for (Index k = 0; k < few; ++k) {
                    const __m512i a = all_at(x[k] + j);
                    for (Index i = 0; i < few; ++i) part[k][i] = _mm512_dpwssd_epi32(part[k][i], a, v[i]);
                }
            }
            for (Index k = 0; k < few; ++k)
                store(sums + (m + k) * distance + r, totals(part[k][0], part[k][1], part[k][2], part[k][3]));
        }
    }
}

template <class... Arguments> INLINE void best_products(Arguments... arguments) {
    if (machine() >= Machine::vnni) vnni_products(arguments...);
    else if (machine() >= Machine::avx2) avx2_products(arguments...);
    else plain_products(arguments...);
}
#else
template <class... Arguments> INLINE void best_products(Arguments... arguments) { plain_products(arguments...); }
#endif

FOR_EACH_MACHINE void widen(Index count, const std::int8_t* from, std::int16_t* to) {
    for (Index i = 0; i < count; ++i) to[i] = from[i];
}

}  // namespace

void integer_products(Index rows, Index width, const std::int8_t* q, const std::int16_t* h, std::int32_t* sums) {
    best_products(rows, width, q, h, sums);
}

Several::Several(Index width, Index stride, std::vector<const std::int16_t*> h) : width_(width), stride_(stride), h_(std::move(h)) {
    const auto aligned = [&](Index bytes) {
        constexpr Index line = 64;
        memory_.resize(bytes + line);
        return memory_.data() + (line - reinterpret_cast<std::uintptr_t>(memory_.data()) % line);
    };
#if defined(GLASSGATE_X86_BF16)
    if (machine() == Machine::tiles) {
        tiles_ = aligned(tiled_bytes(width, Index(h_.size())));
        tile(width, Index(h_.size()), h_.data(), tiles_);
        return;
    }
#endif
    wide_ = reinterpret_cast<std::int16_t*>(aligned(near * stride * Index(sizeof(std::int16_t))));
}

void Several::products(Index rows, const std::int8_t* q, std::int32_t* sums, Index distance) {
    const Index count = Index(h_.size());
#if defined(GLASSGATE_X86_BF16)
    if (tiles_ != nullptr) return tile_products(rows, width_, q, count, tiles_, sums, distance);
#endif
    for (Index r = 0; r < rows; r += near) {
        const Index some = std::min(near, rows - r);
        for (Index i = 0; i < some; ++i) widen(width_, q + (r + i) * width_, wide_ + i * stride_);
        best_products(some, stride_, const_cast<const std::int16_t*>(wide_), count, h_.data(), sums + r, distance);
    }
}

}  // namespace glassgate::runtime
