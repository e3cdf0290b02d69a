// Maxima and sums of exponentials over one row.
#pragma once

#include "rows.hpp"

#include "simd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace glassgate::runtime {

namespace {

using kernels::GG_ISA::Vec;
using kernels::GG_ISA::broadcast;
using kernels::GG_ISA::exponential;
using kernels::GG_ISA::load;
template <class S> constexpr Index width = kernels::GG_ISA::width<S>;

constexpr Index block = 64;  // logits that are compared with the k-th best as one, and summed before they join the total

template <class S> INLINE Vec<S> larger(Vec<S> a, Vec<S> b) { return a > b ? a : b; }

template <class S> INLINE S block_maximum(const S* z) {
    Vec<S> most = load(z);
    for (Index j = width<S>; j < block; j += width<S>) most = larger<S>(most, load(z + j));
    S one = most[0];
    for (Index i = 1; i < width<S>; ++i) one = one > most[i] ? one : most[i];
    return one;
}

template <class S> INLINE S maximum(const S* z, Index n) {
    S most = z[0];
    Index j = 0;
    for (; j + block <= n; j += block) most = std::max(most, block_maximum(z + j));
    for (; j < n; ++j) most = std::max(most, z[j]);
    return most;
}

template <class S> INLINE double sum_of_exponentials(const S* z, Index n, S most) {
    const Vec<S> shift = broadcast<S>(most);
    double sum = 0;
    Index j = 0;
    for (; j + block <= n; j += block) {
        Vec<S> part{};
        for (Index i = 0; i < block; i += width<S>) part += exponential<S>(load(z + j + i) - shift);
        S one = 0;
        for (Index i = 0; i < width<S>; ++i) one += part[i];
        sum += one;
    }
    for (; j < n; j += width<S>) {
        const Index count = std::min(width<S>, n - j);
        const Vec<S> e = exponential<S>(load(z + j, count) - shift);
        for (Index i = 0; i < count; ++i) sum += e[i];
    }
    return sum;
}

}  // namespace

}  // namespace glassgate::runtime
