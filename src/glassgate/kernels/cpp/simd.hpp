// Vectors of S that fill GG_VECTOR_BYTES, and the two activations on them.
//
// One source serves every instruction set: the compiler lowers a vector that is wider than the machine's
// registers to several of them. Contraction is off for the whole build (-ffp-contract=off), so that a product
// and a sum fuse exactly where `fmadd` says so: the same expression gives the same bits wherever it is inlined.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifndef GG_VECTOR_BYTES
#define GG_VECTOR_BYTES 32
#endif

namespace glassgate::kernels::GG_ISA {

using Index = std::int64_t;

template <class S> struct Vectors;
template <> struct Vectors<float> {
    typedef float V __attribute__((vector_size(GG_VECTOR_BYTES)));
    typedef std::int32_t I __attribute__((vector_size(GG_VECTOR_BYTES)));
};
template <> struct Vectors<double> {
    typedef double V __attribute__((vector_size(GG_VECTOR_BYTES)));
    typedef std::int64_t I __attribute__((vector_size(GG_VECTOR_BYTES)));
};
template <class S> using Vec = typename Vectors<S>::V;
template <class S> using Mask = typename Vectors<S>::I;
template <class S> inline constexpr Index width = GG_VECTOR_BYTES / static_cast<Index>(sizeof(S));

#define GG_INLINE inline __attribute__((always_inline))

template <class S> GG_INLINE Vec<S> broadcast(S value) { return value - Vec<S>{}; }

// a * b + c. Fused wherever the instruction set has the fused form; plain product and sum elsewhere.
#if defined(__FMA__)
GG_INLINE __m256 fmadd256(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
GG_INLINE __m256d fmadd256(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
template <class V> GG_INLINE V fmadd_vector(V a, V b, V c) {
    if constexpr (sizeof(V) == 32) {
        return static_cast<V>(fmadd256(a, b, c));
    } else {
#if defined(__AVX512F__)
        if constexpr (sizeof(a[0]) == 4) return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
        else return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#else
        // 64-byte vectors on 32-byte registers: how the wide kernels are exercised on a smaller machine.
        typedef __typeof__(a[0] + a[0]) S;
        typedef S Half __attribute__((vector_size(32)));
        union Pair { V whole; Half half[2]; };
        Pair x{a}, y{b}, z{c};
        for (int i = 0; i < 2; ++i) z.half[i] = fmadd256(x.half[i], y.half[i], z.half[i]);
        return z.whole;
#endif
    }
}
template <class S> GG_INLINE Vec<S> fmadd(Vec<S> a, Vec<S> b, Vec<S> c) { return fmadd_vector(a, b, c); }
#else
template <class S> GG_INLINE Vec<S> fmadd(Vec<S> a, Vec<S> b, Vec<S> c) { return a * b + c; }
#endif

template <class S> GG_INLINE Vec<S> load(const S* from) {
    Vec<S> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class S> GG_INLINE void store(S* to, Vec<S> v) { std::memcpy(to, &v, sizeof v); }

// The first `count` lanes only, count >= 0; nothing behind them is read or written. Lanes that are not read are zero.
template <class S> GG_INLINE Vec<S> load(const S* from, Index count) {
    if (count >= width<S>) return load(from);
#if defined(__AVX512F__) && GG_VECTOR_BYTES == 64
    if constexpr (sizeof(S) == 4) return (Vec<S>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
    else return (Vec<S>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from);
#else
    Vec<S> v{};
    for (Index i = 0; i < count; ++i) v[i] = from[i];
    return v;
#endif
}
template <class S> GG_INLINE void store(S* to, Vec<S> v, Index count) {
    if (count >= width<S>) return store(to, v);
#if defined(__AVX512F__) && GG_VECTOR_BYTES == 64
    if constexpr (sizeof(S) == 4) _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)v);
    else _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), (__m512d)v);
#else
    for (Index i = 0; i < count; ++i) to[i] = v[i];
#endif
}

// A whole vector past the caches, to its own multiple of bytes: for what nobody reads soon. Other threads find it after
// `end_streams` and whatever tells them that it is there.
#if defined(__AVX512F__) && GG_VECTOR_BYTES == 64
inline constexpr bool can_stream = true;
GG_INLINE void stream(float* to, Vec<float> v) { _mm512_stream_ps(to, (__m512)v); }
GG_INLINE void stream(double* to, Vec<double> v) { _mm512_stream_pd(to, (__m512d)v); }
GG_INLINE void end_streams() { _mm_sfence(); }
#else
inline constexpr bool can_stream = false;  // not measured
template <class S> GG_INLINE void stream(S* to, Vec<S> v) { store(to, v); }
GG_INLINE void end_streams() {}
#endif

// Asks for some lines of memory, so that they lie in the second-level cache when they are needed; past the end it does nothing.
// A few at a time between other work: many at once fill the buffers of missing lines, and all waits for those.
template <int LINES> GG_INLINE const char* ask(const char* next) {
#pragma GCC unroll 4
    for (int line = 0; line < LINES; ++line) __builtin_prefetch(next + line * 64, 0, 2);
    return next + LINES * 64;
}

// ---------------------------------------------------------------------------------------------------------
// exp(r) - 1 = r + r^2 q(r), |r| <= ln(2)/2. tests/kernels/fit_expm1.py derives q; the relative error of the fit
// is 2.5e-8 in float (0.4 ULP at worst) and 5.5e-19 in double.
template <class S> struct Exp;
template <> struct Exp<float> {
    static constexpr float log2e = 1.44269504088896341f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440054690583e-4f;
    static constexpr float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    static constexpr int mantissa = 23;
    static constexpr std::int32_t bias = 127;
    static constexpr float lowest = -87.0f;  // exp of anything lower counts as 0
    static constexpr float highest = 20.0f;  // tanh(highest / 2) rounds to 1
    static constexpr int terms = 5;
    static constexpr float q[terms] = {0.5f, 0.1666657693793443566f, 0.04166655455253961377f,
                                       0.0083631876708090509925f, 0.001392619435313618279f};
};
template <> struct Exp<double> {
    static constexpr double log2e = 1.44269504088896340736;
    static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
    static constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr int mantissa = 52;
    static constexpr std::int64_t bias = 1023;
    static constexpr double lowest = -708.0;
    static constexpr double highest = 44.0;
    static constexpr int terms = 11;
    static constexpr double q[terms] = {0.5,
                                        0.16666666666666670997,
                                        0.041666666666666669759,
                                        0.0083333333333261268188,
                                        0.0013888888888883742372,
                                        0.00019841269874849663252,
                                        0.000024801587325568477547,
                                        2.7557255363379394177e-6,
                                        2.7557273616811797599e-7,
                                        2.5105232329847944131e-8,
                                        2.0914697911867025522e-9};
};

// exp(x) = scale * (1 + p) with scale a power of two, for lowest <= x <= highest; NaN gives NaN in p.
template <class S> struct Split {
    Vec<S> p, scale;
};
template <class S> GG_INLINE Split<S> split_exp(Vec<S> x) {
    using E = Exp<S>;
    const Vec<S> shifted = fmadd<S>(x, broadcast<S>(E::log2e), broadcast<S>(E::shift));
    const Vec<S> k = shifted - E::shift;
    Vec<S> r = fmadd<S>(k, broadcast<S>(-E::ln2_high), x);
    r = fmadd<S>(k, broadcast<S>(-E::ln2_low), r);
    Vec<S> q = broadcast<S>(E::q[E::terms - 1]);
#pragma GCC unroll 16
    for (int i = E::terms - 2; i >= 0; --i) q = fmadd<S>(q, r, broadcast<S>(E::q[i]));
    const Vec<S> p = fmadd<S>(q, r * r, r);
    // The low bits of `shifted` hold k as an integer; what lies above falls out of the shift.
    const Mask<S> exponent = ((Mask<S>)shifted + E::bias) << E::mantissa;
    return {p, (Vec<S>)exponent};
}

// exp(x) for x <= 0, or NaN.
template <class S> GG_INLINE Vec<S> exponential(Vec<S> x) {
    const Vec<S> low = broadcast<S>(Exp<S>::lowest);
    const Split<S> s = split_exp<S>(x < low ? low : x);
    return x < low ? Vec<S>{} : fmadd<S>(s.scale, s.p, s.scale);
}

template <class S> GG_INLINE Vec<S> magnitude(Vec<S> x) {
    return (Vec<S>)((Mask<S>)x & ~(Mask<S>)broadcast<S>(S(-0.0)));
}

// 1 / (1 + exp(-x)): rounding exp(-x) to 1 + exp(-x) costs at most half an ULP, far left as well; exactly 0 where exp(x)
// would underflow, exactly 1 far right, NaN for NaN.
template <class S> GG_INLINE Vec<S> sigmoid(Vec<S> x) {
    const Vec<S> low = broadcast<S>(Exp<S>::lowest);
    const Mask<S> under = x < low;
    Vec<S> a = under ? low : x;
    a = a > -low ? -low : a;
    const Split<S> s = split_exp<S>(-a);
    const Vec<S> one = broadcast<S>(S(1));
    const Vec<S> y = one / (one + fmadd<S>(s.scale, s.p, s.scale));
    return under ? Vec<S>{} : y;
}

// sign(x) * m / (m + 2), m = exp(2|x|) - 1 without cancellation: relatively accurate down to the smallest x.
template <class S> GG_INLINE Vec<S> tanh(Vec<S> x) {
    const Vec<S> a = magnitude<S>(x) * S(2);
    const Vec<S> high = broadcast<S>(Exp<S>::highest);
    const Split<S> s = split_exp<S>(a > high ? high : a);
    const Vec<S> m = fmadd<S>(s.scale, s.p, s.scale - S(1));
    const Vec<S> t = m / (m + S(2));
    return (Vec<S>)((Mask<S>)t | ((Mask<S>)x & (Mask<S>)broadcast<S>(S(-0.0))));
}

}  // namespace glassgate::kernels::GG_ISA
