// The best of a softmax without a sort: one pass for the maximum, one for the sum, one for the k largest.
#include "rows.hpp"

#include "simd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace glassgate::runtime {

namespace {

using kernels::GG_ISA::Exp;
using kernels::GG_ISA::Split;
using kernels::GG_ISA::Vec;
using kernels::GG_ISA::broadcast;
using kernels::GG_ISA::load;
using kernels::GG_ISA::split_exp;
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

// exp(x) for x <= 0, or NaN.
template <class S> INLINE Vec<S> exponential(Vec<S> x) {
    const Vec<S> low = broadcast<S>(Exp<S>::lowest);
    const Split<S> s = split_exp<S>(x < low ? low : x);
    return x < low ? Vec<S>{} : s.scale * s.p + s.scale;
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

// The k best so far; of equals the earlier is the better.
template <class S> struct Best {
    using Entry = std::pair<S, Index>;
    static bool better(const Entry& a, const Entry& b) { return a.first > b.first || (a.first == b.first && a.second < b.second); }

    Index k;
    std::vector<Entry> heap{};  // the worst first

    bool full() const { return Index(heap.size()) == k; }
    // Places come rising, so that an equal one is never better.
    INLINE void offer(S value, Index place) {
        if (full()) {
            if (!(value > heap.front().first)) return;
            std::pop_heap(heap.begin(), heap.end(), better);
            heap.back() = {value, place};
        } else {
            heap.emplace_back(value, place);
        }
        std::push_heap(heap.begin(), heap.end(), better);
    }
};

template <class S> INLINE void all_best(const Choice& choice, const S* logits, S* most, S* log_sum, S* values, Index* places) {
    Best<S> best{choice.k};
    for (Index r = 0; r < choice.rows; ++r) {
        const S* z = logits + r * choice.entries;
        most[r] = maximum(z, choice.entries);
        log_sum[r] = S(std::log(sum_of_exponentials(z, choice.entries, most[r])));
        best.heap.clear();
        if (choice.allowed != nullptr) {
            for (Index i = 0; i < choice.count; ++i)
                if (choice.allowed[i] != choice.never) best.offer(z[choice.allowed[i]], choice.allowed[i]);
        } else {
            for (Index j = 0; j < choice.words; j += block) {
                const Index stop = std::min(j + block, choice.words);
                if (best.full() && stop == j + block && !(block_maximum(z + j) > best.heap.front().first)) continue;
                for (Index i = j; i < stop; ++i)
                    if (i != choice.never) best.offer(z[i], i);
            }
        }
        std::sort_heap(best.heap.begin(), best.heap.end(), Best<S>::better);
        for (Index i = 0; i < choice.k; ++i) {
            const bool there = i < Index(best.heap.size());
            values[r * choice.k + i] = there ? best.heap[i].first : -std::numeric_limits<S>::infinity();
            places[r * choice.k + i] = there ? best.heap[i].second : std::numeric_limits<Index>::max();
        }
    }
}

}  // namespace

FOR_EACH_MACHINE void best_single(const Choice& choice, const float* logits, float* most, float* log_sum, float* values,
                                  Index* places) {
    all_best(choice, logits, most, log_sum, values, places);
}
FOR_EACH_MACHINE void best_double(const Choice& choice, const double* logits, double* most, double* log_sum, double* values,
                                  Index* places) {
    all_best(choice, logits, most, log_sum, values, places);
}

// With z_j the logits, s_j those of the sketch and |z_j - s_j| <= e_j:
//
//     log max_j y_j  =  max_j z_j - log(sum_j exp(z_j))  <=  max_j (s_j + e_j) - log(sum_j exp(s_j - e_j))
//
// e_j is the row's own error times |h| (Cauchy and Schwarz), what rounding h to 16 bits adds, and what float32 may round.
FOR_EACH_MACHINE float highest_log_share(const Sketch& sketch, const float* h) {
    const Index width = sketch.width;
    // No sum of products, in whatever order, leaves 32 bits.
    const float reach = std::min(32767.0f, 2147483000.0f / (127.0f * float(width)));
    float largest = 0, squares = 0, rounded = 0;
    for (Index j = 0; j < width; ++j) largest = std::max(largest, std::abs(h[j]));
    const float unit = largest / std::floor(reach), inverse = largest > 0 ? 1 / unit : 0;
    std::vector<std::int16_t> integers(width);
    for (Index j = 0; j < width; ++j) {
        const float nearest = std::nearbyint(h[j] * inverse), off = h[j] - unit * nearest;
        integers[j] = std::int16_t(nearest);
        squares += h[j] * h[j];
        rounded += off * off;
    }
    constexpr float ulp = 1.2e-7f;  // more than twice float32's rounding
    const float slack = 1 + float(width) * ulp, length = std::sqrt(squares) * slack;
    const float others = std::sqrt(rounded) * slack + float(width + 8) * ulp * length;
    const std::int16_t* const x = integers.data();
    std::vector<float> low(sketch.rows);
    float most = -std::numeric_limits<float>::infinity();
    for (Index r = 0; r < sketch.rows; ++r) {
        const std::int8_t* const q = sketch.integers + r * width;
        std::int32_t sum = 0;
        for (Index j = 0; j < width; ++j) sum += std::int32_t(q[j]) * x[j];
        const float c = sketch.c == nullptr ? 0 : sketch.c[r], s = float(sum) * (unit * sketch.scales[r]) + c;
        const float error = sketch.errors[r] * length + sketch.lengths[r] * others + 4 * ulp * std::abs(c);
        low[r] = s - error;
        most = std::max(most, s + error);
    }
    const float shift = maximum(low.data(), sketch.rows);
    const float log_sum = float(std::log(sum_of_exponentials(low.data(), sketch.rows, shift)));
    return most - shift - log_sum + 1e-4f;  // what this line and the exponentials round
}

}  // namespace glassgate::runtime
