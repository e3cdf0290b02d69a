// y = V h + c for one h or several: the product of the output layer in streaming. V is read once, row by row, in the form that
// it is stored in: float32, float64, bf16 (the upper half of float32) or int8 with a scale for each row.
//
// The sum of a row depends neither on the other rows nor on the other h: any part gives the same bits as the whole.
#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace glassgate::runtime {

namespace {

constexpr Index lanes = 8;       // numbers in a vector
constexpr Index group = 4;       // rows that share the loads of one h
constexpr Index pair = 2;        // rows that share the loads of several h,
constexpr Index several = 3;     // and how many h those are
constexpr Index near = 16;       // rows that stay in the first-level cache while every h passes by
constexpr Index chains = 2;      // sums of a row that do not wait for each other
constexpr Index ahead = 8192;    // bytes that are asked for before they are needed
constexpr Index large = 4 << 20; // bytes beyond which V comes from memory, which is faster read as one stream

template <class A> struct Vector {
    typedef A type __attribute__((vector_size(lanes * sizeof(A))));
};
template <class A> using Lanes = typename Vector<A>::type;

template <class To> INLINE To read(const void* from) {
    To value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class To, class From> INLINE To as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    return read<To>(&from);
}

// How a block of a row, 32 bytes of it, becomes vectors of numbers to sum. Where several numbers share a lane, the first
// vector holds the first of each lane and so on: h is laid out alike, once for all rows. (The lowest bytes are the first numbers.)
struct Single {
    using Stored = float;
    using Sum = float;
    static constexpr Index parts = 1;
    static INLINE Lanes<float> part(const float* from, Index) { return read<Lanes<float>>(from); }
    static INLINE float one(float value) { return value; }
};
struct Double {
    using Stored = double;
    using Sum = double;
    static constexpr Index parts = 1;
    static INLINE Lanes<double> part(const double* from, Index) { return read<Lanes<double>>(from); }
    static INLINE double one(double value) { return value; }
};
struct Bf16 {
    using Stored = std::uint16_t;
    using Sum = float;
    static constexpr Index parts = 2;
    static INLINE Lanes<float> part(const std::uint16_t* from, Index k) {
        const auto words = read<Lanes<std::uint32_t>>(from);
        return as<Lanes<float>>(k == 0 ? words << 16 : words & 0xFFFF0000u);
    }
    static INLINE float one(std::uint16_t value) { return as<float>(std::uint32_t(value) << 16); }
};
struct Int8 {
    using Stored = std::int8_t;
    using Sum = float;
    static constexpr Index parts = 4;
    static INLINE Lanes<float> part(const std::int8_t* from, Index k) {
        const auto words = read<Lanes<std::int32_t>>(from);
        return __builtin_convertvector((words << (24 - 8 * k)) >> 24, Lanes<float>);
    }
    static INLINE float one(std::int8_t value) { return value; }
};

// `count` rows with `some` h at once; each h lies block by block in the order of the parts.
template <class F, Index count, Index some>
INLINE void some_rows(Index width, const typename F::Stored* V, const typename F::Sum* h, typename F::Sum* y, Index stride) {
    using A = typename F::Sum;
    constexpr Index block = F::parts * lanes;
    Lanes<A> sums[some][count][chains] = {};
    Index j = 0;
    const auto add = [&](Index chain) __attribute__((always_inline)) {
        for (Index k = 0; k < F::parts; ++k) {
            Lanes<A> v[count];
            for (Index r = 0; r < count; ++r) v[r] = F::part(V + r * width + j, k);
            for (Index m = 0; m < some; ++m) {
                const auto x = read<Lanes<A>>(h + m * width + j + k * lanes);
                for (Index r = 0; r < count; ++r) sums[m][r][chain] += v[r] * x;
            }
        }
        if (some == 1)
            for (Index r = 0; r < count; ++r) __builtin_prefetch(V + r * width + j + ahead / Index(sizeof(*V)), 0, 3);
        j += block;
    };
    while (j + chains * block <= width)
        for (Index chain = 0; chain < chains; ++chain) add(chain);
    for (Index chain = 0; chain < chains && j + block <= width; ++chain) add(chain);
    for (Index m = 0; m < some; ++m)
        for (Index r = 0; r < count; ++r) {
            Lanes<A> all = sums[m][r][0];
            for (Index chain = 1; chain < chains; ++chain) all += sums[m][r][chain];
            A sum = ((all[0] + all[4]) + (all[2] + all[6])) + ((all[1] + all[5]) + (all[3] + all[7]));
            // Fused by name: left to itself the compiler fuses some copies of this loop and not others.
            for (Index k = j; k < width; ++k) sum = std::fma(A(F::one(V[r * width + k])), h[m * width + k], sum);
            y[m * stride + r] = sum;
        }
}

template <class F, Index some>
INLINE void block_of_rows(Index rows, Index width, const typename F::Stored* V, const typename F::Sum* h, typename F::Sum* y,
                          Index stride) {
    Index r = 0;
    for (; r + pair <= rows; r += pair) some_rows<F, pair, some>(width, V + r * width, h, y + r, stride);
    for (; r < rows; ++r) some_rows<F, 1, some>(width, V + r * width, h, y + r, stride);
}

template <class F> INLINE void all_rows(const Matrix& matrix, const void* bias, Index count, const void* h, void* out) {
    using A = typename F::Sum;
    const Index rows = matrix.rows, width = matrix.width;
    const auto* V = static_cast<const typename F::Stored*>(matrix.values);
    const A *x = static_cast<const A*>(h), *c = static_cast<const A*>(bias);
    A* const all = static_cast<A*>(out);
    constexpr Index block = F::parts * lanes;
    std::vector<A> ordered;
    if (F::parts > 1) {
        ordered.assign(x, x + count * width);
        for (Index m = 0; m < count; ++m)
            for (Index j = m * width; j + block <= (m + 1) * width; j += block)
                for (Index k = 0; k < F::parts; ++k)
                    for (Index lane = 0; lane < lanes; ++lane) ordered[j + k * lanes + lane] = x[j + lane * F::parts + k];
        x = ordered.data();
    }
    if (count == 1) {
        // Numbers that need no unpacking wait for memory alone.
        const bool one_stream = F::parts == 1 && rows * width * Index(sizeof(*V)) > large;
        Index row = 0;
        for (; !one_stream && row + group <= rows; row += group) some_rows<F, group, 1>(width, V + row * width, x, all + row, rows);
        for (; row < rows; ++row) some_rows<F, 1, 1>(width, V + row * width, x, all + row, rows);
    } else {
        for (Index row = 0; row < rows; row += near) {
            const Index some = std::min(near, rows - row);
            Index m = 0;
            for (; m + several <= count; m += several)
                block_of_rows<F, several>(some, width, V + row * width, x + m * width, all + m * rows + row, rows);
            for (; m < count; ++m) block_of_rows<F, 1>(some, width, V + row * width, x + m * width, all + m * rows + row, rows);
        }
    }
    for (A* y = all; y < all + count * rows; y += rows) {
        if (matrix.scales != nullptr)
            for (Index r = 0; r < rows; ++r) y[r] *= static_cast<A>(matrix.scales[r]);
        if (c != nullptr)
            for (Index r = 0; r < rows; ++r) y[r] += c[r];
    }
}

#define PRODUCTS(name, Form)                                                                                            \
    FOR_EACH_MACHINE void name(const Matrix& V, const void* c, Index count, const void* h, void* y) {                  \
        all_rows<Form>(V, c, count, h, y);                                                                              \
    }
PRODUCTS(products_single, Single)
PRODUCTS(products_double, Double)
PRODUCTS(products_bf16, Bf16)
PRODUCTS(products_int8, Int8)

}  // namespace

void products(const Matrix& V, const void* c, Index count, const void* h, void* y) {
    constexpr void (*run[])(const Matrix&, const void*, Index, const void*, void*) = {products_single, products_double,
                                                                                      products_bf16, products_int8};
    run[V.form](V, c, count, h, y);
}

}  // namespace glassgate::runtime
