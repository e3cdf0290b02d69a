// y = V h + c for one h or several: the product of the output layer in streaming. V is read once, row by row, in the form that
// it is stored in: float32, float64, bf16 (the upper half of float32) or int8 with a scale for each row.
//
// The sum of a row depends neither on the other rows nor on the other h: any part gives the same bits as the whole.
#include "rows.hpp"

#include "machine.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace glassgate::runtime {

namespace {

constexpr Index lanes = 16;      // numbers that are summed side by side, in one register or several
constexpr Index group = 4;       // rows that share the loads of one h
constexpr Index near = 16;       // rows that stay in the first-level cache while every h passes by
constexpr Index ahead = 8192;    // bytes that are asked for before they are needed
constexpr Index large = 4 << 20; // bytes beyond which V comes from memory, which is faster read as one stream

template <class A, Index count> struct Vector {
    typedef A type __attribute__((vector_size(count * sizeof(A))));
};
template <class A, Index count> using Lanes = typename Vector<A, count>::type;

template <class To> INLINE To read(const void* from) {
    To value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class To, class From> INLINE To as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    return read<To>(&from);
}

// How a block of a row becomes vectors of numbers to sum. Where several numbers share four bytes, the first vector holds the
// first of each four bytes and so on: h is laid out alike, once for all rows. (The lowest bytes are the first numbers.)
struct Single {
    using Stored = float;
    using Sum = float;
    static constexpr Index parts = 1;
    template <Index count> static INLINE Lanes<float, count> part(const float* from, Index) { return read<Lanes<float, count>>(from); }
    static INLINE float one(float value) { return value; }
};
struct Double {
    using Stored = double;
    using Sum = double;
    static constexpr Index parts = 1;
    template <Index count> static INLINE Lanes<double, count> part(const double* from, Index) { return read<Lanes<double, count>>(from); }
    static INLINE double one(double value) { return value; }
};
struct Bf16 {
    using Stored = std::uint16_t;
    using Sum = float;
    static constexpr Index parts = 2;
    template <Index count> static INLINE Lanes<float, count> part(const std::uint16_t* from, Index k) {
        const auto words = read<Lanes<std::uint32_t, count>>(from);
        return as<Lanes<float, count>>(k == 0 ? words << 16 : words & 0xFFFF0000u);
    }
    static INLINE float one(std::uint16_t value) { return as<float>(std::uint32_t(value) << 16); }
};
struct Int8 {
    using Stored = std::int8_t;
    using Sum = float;
    static constexpr Index parts = 4;
    template <Index count> static INLINE Lanes<float, count> part(const std::int8_t* from, Index k) {
        const auto words = read<Lanes<std::int32_t, count>>(from);
        return __builtin_convertvector((words << (24 - 8 * k)) >> 24, Lanes<float, count>);
    }
    static INLINE float one(std::int8_t value) { return value; }
};

// Where a row's whole blocks end, and behind them at most one of half as many lanes; the rest is taken one by one.
struct Blocks {
    Index whole, half;
    Blocks(Index width, Index parts)
        : whole(width / (lanes * parts) * lanes * parts), half(width / (lanes / 2 * parts) * (lanes / 2) * parts) {}
};

// How many numbers a register holds, of 64 bytes or of 32.
template <class A, bool wide> constexpr Index own = (wide ? 64 : 32) / Index(sizeof(A));

// The numbers of a row in the order of the parts: what `some_rows` reads as one part then.
template <class F, bool wide>
INLINE void unpack(Index width, const Blocks& blocks, const typename F::Stored* row, typename F::Sum* to) {
    constexpr Index some = own<typename F::Sum, wide>;
    constexpr Index half = lanes / 2;
    Index j = 0;
    for (; j < blocks.whole; j += lanes * F::parts)
        for (Index k = 0; k < F::parts; ++k)
            for (Index c = 0; c < lanes; c += some) {
                const auto part = F::template part<some>(row + j + c * F::parts, k);
                std::memcpy(to + j + k * lanes + c, &part, sizeof part);
            }
    if (j < blocks.half) {
        for (Index k = 0; k < F::parts; ++k) {
            const auto part = F::template part<half>(row + j, k);
            std::memcpy(to + j + k * half, &part, sizeof part);
        }
        j = blocks.half;
    }
    for (; j < width; ++j) to[j] = F::one(row[j]);
}

// The sums of the numbers in four vectors, added in the order in which one alone is.
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (decltype(a < b)){__VA_ARGS__})
#endif
template <class V, class A> INLINE void totals(const V (*of)[1], A* y) {
    const auto halves = [](V a, V b) __attribute__((always_inline)) {
        return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
               SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    };
    const V first = halves(of[0][0], of[1][0]), second = halves(of[2][0], of[3][0]);
    V fours = SHUFFLE(first, second, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
              SHUFFLE(first, second, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    fours += SHUFFLE(fours, fours, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    fours += SHUFFLE(fours, fours, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    for (Index r = 0; r < 4; ++r) y[r] = fours[4 * r];
}

// The upper half of a row's sums added to the lower.
template <class V, std::size_t pieces> INLINE auto eight(const V (&sums)[pieces]) {
    using A = std::remove_cvref_t<decltype(sums[0][0])>;
    using Half = Lanes<A, lanes / 2>;
    if constexpr (pieces == 1) {
        const auto both = as<std::array<Half, 2>>(sums[0]);
        return both[0] + both[1];
    } else if constexpr (pieces == 2) {
        return sums[0] + sums[1];
    } else {
        return as<Half>(std::array<V, 2>{sums[0] + sums[2], sums[1] + sums[3]});
    }
}

// `count` rows with `some` h at once, each in the order of the parts.
template <class F, bool wide, Index count, Index some>
INLINE void some_rows(Index width, const Blocks& blocks, const typename F::Stored* V, const typename F::Sum* h, typename F::Sum* y,
                      Index stride) {
    using A = typename F::Sum;
    constexpr Index each = own<A, wide>, pieces = lanes / each;
    Lanes<A, each> sums[some][count][pieces] = {};
    Index j = 0;
    for (; j < blocks.whole; j += F::parts * lanes) {
#pragma GCC unroll 4
        for (Index k = 0; k < F::parts; ++k) {
#pragma GCC unroll 4
            for (Index c = 0; c < pieces; ++c) {
                Lanes<A, each> v[count];
#pragma GCC unroll 4
                for (Index r = 0; r < count; ++r) v[r] = F::template part<each>(V + r * width + j + c * each * F::parts, k);
#pragma GCC unroll 4
                for (Index m = 0; m < some; ++m) {
                    const auto x = read<Lanes<A, each>>(h + m * width + j + k * lanes + c * each);
#pragma GCC unroll 4
                    for (Index r = 0; r < count; ++r) sums[m][r][c] += v[r] * x;
                }
            }
        }
        if (some == 1)
            for (Index r = 0; r < count; ++r)
                for (Index line = 0; line < F::parts * lanes * Index(sizeof(*V)); line += 64)
                    __builtin_prefetch(reinterpret_cast<const char*>(V + r * width + j) + line + ahead, 0, 3);
    }
    constexpr Index half = lanes / 2;
#pragma GCC unroll 8
    for (Index m = 0; m < some; ++m) {
        A* const of_h = y + m * stride;
        bool summed = false;
        if constexpr (pieces == 1 && count == 4) {
            summed = blocks.half == j;
            if (summed) totals(sums[m], of_h);
        }
        if (!summed) {
            for (Index r = 0; r < count; ++r) {
                Lanes<A, half> all = eight(sums[m][r]);
                for (Index i = j; i < blocks.half; i += half * F::parts)
                    for (Index k = 0; k < F::parts; ++k)
                        all += F::template part<half>(V + r * width + i, k) * read<Lanes<A, half>>(h + m * width + i + k * half);
                of_h[r] = ((all[0] + all[4]) + (all[2] + all[6])) + ((all[1] + all[5]) + (all[3] + all[7]));
            }
        }
        // Fused by name: left to itself the compiler fuses some copies of this loop and not others.
        for (Index r = 0; blocks.half < width && r < count; ++r)
            for (Index k = blocks.half; k < width; ++k)
                of_h[r] = std::fma(A(F::one(V[r * width + k])), h[m * width + k], of_h[r]);
    }
}

// A few rows with all h, `many` at once; the rows are in the first-level cache.
template <class F, bool wide, Index count, Index many>
INLINE void near_rows(Index rows, Index width, const Blocks& blocks, const typename F::Stored* V, Index h_count,
                      const typename F::Sum* h, typename F::Sum* y, Index stride) {
    const auto pass = [&]<Index some>(Index m) __attribute__((always_inline)) {
        Index r = 0;
        for (; r + count <= rows; r += count)
            some_rows<F, wide, count, some>(width, blocks, V + r * width, h + m * width, y + m * stride + r, stride);
        for (; r < rows; ++r) some_rows<F, wide, 1, some>(width, blocks, V + r * width, h + m * width, y + m * stride + r, stride);
    };
    Index m = 0;
    for (; m + many <= h_count; m += many) pass.template operator()<many>(m);
    for (; m < h_count; ++m) pass.template operator()<1>(m);
}

// `count` rows and `many` h share what is read, as far as the registers go.
template <class F, bool wide, Index count, Index many>
INLINE void all_rows(const Matrix& matrix, const void* bias, Index h_count, const void* h, void* out) {
    using A = typename F::Sum;
    using Plain = std::conditional_t<std::is_same_v<A, double>, Double, Single>;
    const Index rows = matrix.rows, width = matrix.width;
    const Blocks blocks(width, F::parts);
    const auto* V = static_cast<const typename F::Stored*>(matrix.values);
    const A *x = static_cast<const A*>(h), *c = static_cast<const A*>(bias);
    A* const all = static_cast<A*>(out);
    std::vector<A> ordered, unpacked;
    if (F::parts > 1) {
        ordered.assign(x, x + h_count * width);
        for (Index m = 0; m < h_count; ++m)
            for (Index j = 0; j < blocks.half;) {
                const Index some = j < blocks.whole ? lanes : lanes / 2, start = m * width + j;
                for (Index k = 0; k < F::parts; ++k)
                    for (Index lane = 0; lane < some; ++lane) ordered[start + k * some + lane] = x[start + lane * F::parts + k];
                j += some * F::parts;
            }
        x = ordered.data();
    }
    if (h_count == 1) {
        // Numbers that need no unpacking wait for memory alone.
        const bool one_stream = F::parts == 1 && rows * width * Index(sizeof(*V)) > large;
        Index row = 0;
        for (; !one_stream && row + group <= rows; row += group)
            some_rows<F, wide, group, 1>(width, blocks, V + row * width, x, all + row, rows);
        for (; row < rows; ++row) some_rows<F, wide, 1, 1>(width, blocks, V + row * width, x, all + row, rows);
    } else {
        if (F::parts > 1) unpacked.resize(near * width);
        for (Index row = 0; row < rows; row += near) {
            const Index some = std::min(near, rows - row);
            if constexpr (F::parts > 1) {
                for (Index r = 0; r < some; ++r) unpack<F, wide>(width, blocks, V + (row + r) * width, unpacked.data() + r * width);
                near_rows<Plain, wide, count, many>(some, width, blocks, unpacked.data(), h_count, x, all + row, rows);
            } else {
                near_rows<F, wide, count, many>(some, width, blocks, V + row * width, h_count, x, all + row, rows);
            }
        }
    }
    for (A* y = all; y < all + h_count * rows; y += rows) {
        if (matrix.scales != nullptr)
            for (Index r = 0; r < rows; ++r) y[r] *= static_cast<A>(matrix.scales[r]);
        if (c != nullptr)
            for (Index r = 0; r < rows; ++r) y[r] += c[r];
    }
}

using Run = void(const Matrix&, const void*, Index, const void*, void*);

#define PRODUCTS(name, Form, wide, count, many)                                                                              \
    void name(const Matrix& V, const void* c, Index h_count, const void* h, void* y) {                                 \
        all_rows<Form, wide, count, many>(V, c, h_count, h, y);                                                               \
    }
#if defined(__x86_64__)
// Registers: 32 of 64 bytes.
#define WIDE __attribute__((target("arch=x86-64-v4")))
WIDE PRODUCTS(wide_single, Single, true, 4, 4)
WIDE PRODUCTS(wide_double, Double, true, 2, 4)
WIDE PRODUCTS(wide_bf16, Bf16, true, 4, 4)
WIDE PRODUCTS(wide_int8, Int8, true, 4, 4)
#define NARROW __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define NARROW
#endif
// 16 of 32 bytes.
NARROW PRODUCTS(products_single, Single, false, 2, 3)
NARROW PRODUCTS(products_double, Double, false, 2, 3)
NARROW PRODUCTS(products_bf16, Bf16, false, 2, 3)
NARROW PRODUCTS(products_int8, Int8, false, 2, 3)

Run* best_of(Form form) {
    constexpr Run* narrow[] = {products_single, products_double, products_bf16, products_int8};
#if defined(__x86_64__)
    constexpr Run* wide[] = {wide_single, wide_double, wide_bf16, wide_int8};
    if (machine() >= Machine::avx512) return wide[form];
#endif
    return narrow[form];
}

}  // namespace

void products(const Matrix& V, const void* c, Index count, const void* h, void* y) {
    static Run* const run[] = {best_of(single), best_of(doubles), best_of(bf16), best_of(int8)};
    run[V.form](V, c, count, h, y);
}

}  // namespace glassgate::runtime
