// y = V h + c for one h: the product of the output layer in streaming. V is read once, row by row, in the form that it is
// stored in: float32, float64, bf16 (the upper half of float32) or int8 with a scale for each row. One thread.
//
// The sum of a row does not depend on the other rows: any part of V gives the same bits as the whole.
#include "rows.hpp"

#include <cstring>
#include <vector>

namespace glassgate::runtime {

namespace {

constexpr Index lanes = 8;       // numbers in a vector
constexpr Index group = 4;       // rows that share the loads of h
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

// `count` rows at once; h lies block by block in the order of the parts.
template <class F, Index count>
INLINE void some_rows(Index width, const typename F::Stored* V, const typename F::Sum* h, typename F::Sum* y) {
    using A = typename F::Sum;
    constexpr Index block = F::parts * lanes;
    Lanes<A> sums[count][chains] = {};
    Index j = 0;
    const auto add = [&](Index chain) __attribute__((always_inline)) {
        for (Index k = 0; k < F::parts; ++k) {
            const auto x = read<Lanes<A>>(h + j + k * lanes);
            for (Index r = 0; r < count; ++r) sums[r][chain] += F::part(V + r * width + j, k) * x;
        }
        for (Index r = 0; r < count; ++r) __builtin_prefetch(V + r * width + j + ahead / Index(sizeof(*V)), 0, 3);
        j += block;
    };
    while (j + chains * block <= width)
        for (Index chain = 0; chain < chains; ++chain) add(chain);
    for (Index chain = 0; chain < chains && j + block <= width; ++chain) add(chain);
    for (Index r = 0; r < count; ++r) {
        Lanes<A> all = sums[r][0];
        for (Index chain = 1; chain < chains; ++chain) all += sums[r][chain];
        A sum = ((all[0] + all[4]) + (all[2] + all[6])) + ((all[1] + all[5]) + (all[3] + all[7]));
        for (Index k = j; k < width; ++k) sum += F::one(V[r * width + k]) * h[k];
        y[r] = sum;
    }
}

template <class F>
INLINE void all_rows(Index rows, Index width, const void* matrix, const float* scales, const void* bias, const void* h,
                     void* out) {
    using A = typename F::Sum;
    const auto* V = static_cast<const typename F::Stored*>(matrix);
    const A *from = static_cast<const A*>(h), *c = static_cast<const A*>(bias);
    A* y = static_cast<A*>(out);
    constexpr Index block = F::parts * lanes;
    std::vector<A> ordered(from, from + width);
    for (Index j = 0; F::parts > 1 && j + block <= width; j += block)
        for (Index k = 0; k < F::parts; ++k)
            for (Index lane = 0; lane < lanes; ++lane) ordered[j + k * lanes + lane] = from[j + lane * F::parts + k];
    const A* x = ordered.data();
    // Numbers that need no unpacking wait for memory alone. The sum of a row is the same either way.
    const bool one_stream = F::parts == 1 && rows * width * Index(sizeof(*V)) > large;
    Index row = 0;
    for (; !one_stream && row + group <= rows; row += group) some_rows<F, group>(width, V + row * width, x, y + row);
    for (; row < rows; ++row) some_rows<F, 1>(width, V + row * width, x, y + row);
    if (scales != nullptr)
        for (Index r = 0; r < rows; ++r) y[r] *= static_cast<A>(scales[r]);
    if (c != nullptr)
        for (Index r = 0; r < rows; ++r) y[r] += c[r];
}

}  // namespace

#define PRODUCT(name, Form)                                                                                              \
    FOR_EACH_MACHINE void name(Index rows, Index width, const void* V, const float* scales, const void* c, const void* h, \
                               void* y) {                                                                               \
        all_rows<Form>(rows, width, V, scales, c, h, y);                                                                 \
    }
PRODUCT(product_single, Single)
PRODUCT(product_double, Double)
PRODUCT(product_bf16, Bf16)
PRODUCT(product_int8, Int8)

}  // namespace glassgate::runtime
