// The functions of output.hpp for one instruction set.
#pragma once

#include "operand.hpp"
#include "output.hpp"
#include "team.hpp"

#include <cmath>

namespace glassgate::kernels::GG_ISA {

namespace {

constexpr Index few = 16384;  // elements for each thread: below, a second thread costs more than it saves
constexpr Index chain = 64;   // vectors that are added up before they join the total, so that errors stay small

GG_INLINE Index smaller(Index a, Index b) { return a < b ? a : b; }

template <class S> GG_INLINE Vec<S> root(Vec<S> v) {
    S lanes[width<S>];
    std::memcpy(lanes, &v, sizeof v);
    for (Index i = 0; i < width<S>; ++i) lanes[i] = sizeof(S) == 4 ? __builtin_sqrtf(lanes[i]) : __builtin_sqrt(lanes[i]);
    std::memcpy(&v, lanes, sizeof v);
    return v;
}

template <class S> GG_INLINE S logarithm(S x) { return sizeof(S) == 4 ? __builtin_logf(x) : __builtin_log(x); }

// Calls body(first, last, thread) on parts of 0 ... rows, on as many threads as the work is worth.
template <class F> void over_rows(Index rows, Index elements, const F& body) {
    const auto wanted = static_cast<int>(smaller(elements < few ? 1 : elements / few, threads()));
    struct Call {
        const F& body;
        Index rows;
    } call{body, rows};
    run_team(
        wanted,
        [](void* argument, const Team& team) {
            const Call& call = *static_cast<const Call*>(argument);
            const Index first = call.rows * team.rank / team.size, last = call.rows * (team.rank + 1) / team.size;
            if (first < last) call.body(first, last, team.rank);
        },
        &call);
}

template <class S> GG_INLINE S total(Vec<S> v) {
    S sum = v[0];
    for (Index i = 1; i < width<S>; ++i) sum += v[i];
    return sum;
}

// A row of logits, the bias added where it is read.
template <class S> struct Logits {
    const S *x, *bias;
    GG_INLINE Vec<S> at(Index j) const { return bias == nullptr ? load(x + j) : load(x + j) + load(bias + j); }
    GG_INLINE Vec<S> at(Index j, Index count) const {
        return bias == nullptr ? load(x + j, count) : load(x + j, count) + load(bias + j, count);
    }
    GG_INLINE S one(Index j) const { return bias == nullptr ? x[j] : x[j] + bias[j]; }
};

template <class S> S largest(Logits<S> z, Index n) {
    constexpr Index w = width<S>;
    S most = z.one(0);
    Index j = 0;
    if (n >= 4 * w) {
        Vec<S> a = z.at(0), b = z.at(w), c = z.at(2 * w), d = z.at(3 * w);
        for (j = 4 * w; j + 4 * w <= n; j += 4 * w) {
            const Vec<S> e = z.at(j), f = z.at(j + w), g = z.at(j + 2 * w), h = z.at(j + 3 * w);
            a = a > e ? a : e;
            b = b > f ? b : f;
            c = c > g ? c : g;
            d = d > h ? d : h;
        }
        a = a > b ? a : b;
        c = c > d ? c : d;
        a = a > c ? a : c;
        for (Index i = 0; i < w; ++i) most = most > a[i] ? most : a[i];
    }
    for (; j < n; ++j) most = most > z.one(j) ? most : z.one(j);
    return most;
}

// x <- exp(z - most); the sum of it.
template <class S> S exponentials(Logits<S> z, S* x, Index n, S most) {
    constexpr Index w = width<S>;
    const Vec<S> shift = broadcast<S>(most);
    Vec<S> sum{};
    Index j = 0;
    while (j + 2 * w <= n) {
        Vec<S> a{}, b{};
        const Index stop = smaller(n, j + chain * w);
        for (; j + 2 * w <= stop; j += 2 * w) {
            const Vec<S> e = exponential<S>(z.at(j) - shift), f = exponential<S>(z.at(j + w) - shift);
            store(x + j, e);
            store(x + j + w, f);
            a += e;
            b += f;
        }
        sum += a + b;
    }
    for (; j < n; j += w) {
        const Index count = smaller(w, n - j);
        Vec<S> e = exponential<S>(z.at(j, count) - shift);
        for (Index i = count; i < w; ++i) e[i] = 0;
        store(x + j, e, count);
        sum += e;
    }
    return total<S>(sum);
}

// The loss of a row of n logits x; the gradient in their place.
template <class S> S row_loss(S* x, const S* bias, Index n, Index target, S scale) {
    const Logits<S> z{x, bias};
    const S most = largest(z, n), chosen = z.one(target) - most;
    const S sum = exponentials(z, x, n, most);
    const Vec<S> factor = broadcast<S>(scale / sum);
    Index j = 0;
    for (; j + width<S> <= n; j += width<S>) store(x + j, load(x + j) * factor);
    for (; j < n; ++j) x[j] *= factor[0];
    x[target] -= scale;
    return logarithm(sum) - chosen;
}

template <class S> void softmax_loss(const SoftmaxLoss<S>& call) {
    over_rows(call.rows, call.rows * call.entries, [&](Index first, Index last, int) {
        for (Index r = first; r < last; ++r)
            call.loss[r] = row_loss(call.x + r * call.stride, call.bias, call.entries, call.targets[r], call.scale);
    });
}

void rounded_softmax_loss(const RoundedSoftmaxLoss& call) {
    constexpr Index w = width<float>;
    const Index n = call.entries, stride = round_up(n, 16);
    auto* space = reinterpret_cast<float*>(scratch(static_cast<std::size_t>(threads() * stride) * sizeof(float)));
    over_rows(call.rows, call.rows * n, [&](Index first, Index last, int thread) {
        float* row = space + thread * stride;
        for (Index r = first; r < last; ++r) {
            std::uint16_t* x = call.x + r * n;
            for (Index j = 0; j < n; j += w) store(row + j, load_widened(x + j, n - j), n - j);
            call.loss[r] = row_loss(row, call.bias, n, call.targets[r], call.scale);
            for (Index j = 0; j < n; j += w) store_rounded(x + j, load(row + j, n - j), n - j);
        }
    });
    if (call.d_bias == nullptr) return;
    constexpr Index block = 64;  // columns
    over_rows(ceil_div(n, block), call.rows * n, [&](Index first, Index last, int) {
        const Index stop = smaller(n, last * block);
        for (Index r = 0; r < call.rows; ++r)
            for (Index j = first * block; j < stop; j += w) {
                float* sum = call.d_bias + j;
                store(sum, load(sum, stop - j) + load_widened(call.x + r * n + j, stop - j), stop - j);
            }
    });
}

template <class S> void adam_step(const AdamStep<S>& call) {
    over_rows(call.rows, call.rows * call.width, [&](Index first, Index last, int) {
        const Vec<S> b1 = broadcast<S>(S(call.beta1)), b2 = broadcast<S>(S(call.beta2));
        const Vec<S> c1 = broadcast<S>(S(1 - call.beta1)), c2 = broadcast<S>(S(1 - call.beta2));
        const Vec<S> clip = broadcast<S>(S(call.clip)), shrink = broadcast<S>(S(call.shrink));
        // m / (sqrt(v) / correction + epsilon) = correction m / (sqrt(v) + correction epsilon)
        const Vec<S> move = broadcast<S>(S(call.step * call.correction));
        const Vec<S> epsilon = broadcast<S>(S(call.correction * call.epsilon));
        const auto element = [&](Index at, Index count) {
            const Vec<S> g = load(call.g + at, count) * clip;
            const Vec<S> m = fmadd<S>(b1, load(call.m + at, count), c1 * g);
            const Vec<S> v = fmadd<S>(b2, load(call.v + at, count), c2 * (g * g));
            const Vec<S> p = load(call.p + at, count) * shrink - move * m / (root<S>(v) + epsilon);
            store(call.m + at, m, count);
            store(call.v + at, v, count);
            store(call.p + at, p, count);
        };
        for (Index r = first; r < last; ++r) {
            const Index start = (call.which == nullptr ? r : call.which[r]) * call.width;
            Index j = 0;
            for (; j + width<S> <= call.width; j += width<S>) element(start + j, width<S>);
            if (j < call.width) element(start + j, call.width - j);
        }
    });
}

template <class S> void adam_catch_up(const AdamCatchUp<S>& call) {
    over_rows(call.rows, call.rows * call.width, [&](Index first, Index last, int) {
        const Vec<S> epsilon = broadcast<S>(S(call.epsilon));
        for (Index r = first; r < last; ++r) {
            const Index row = call.which == nullptr ? r : call.which[r], stamp = call.stamp[row];
            if (stamp == call.now) continue;
            const Index skipped = call.now - stamp;
            const Vec<S> shrink = broadcast<S>(S(call.shrink[stamp])), move = broadcast<S>(S(call.move[stamp]));
            const Vec<S> power1 = broadcast<S>(S(call.power1[skipped])), power2 = broadcast<S>(S(call.power2[skipped]));
            for (Index j = 0; j < call.width; j += width<S>) {
                const Index at = row * call.width + j, count = smaller(width<S>, call.width - j);
                const Vec<S> m = load(call.m + at, count), v = load(call.v + at, count);
                // Where m is 0 so may be the divisor.
                const Vec<S> step = m == Vec<S>{} ? Vec<S>{} : move * m / (root<S>(v) + epsilon);
                store(call.p + at, load(call.p + at, count) * shrink - step, count);
                store(call.m + at, m * power1, count);
                store(call.v + at, v * power2, count);
            }
            call.stamp[row] = call.now;
        }
    });
}

template <class S> void add_rows(const AddRows<S>& call) {
    const auto wanted = static_cast<int>(smaller(1 + call.count * call.width / few, threads()));
    run_team(
        wanted,
        [](void* argument, const Team& team) {
            const AddRows<S>& k = *static_cast<const AddRows<S>*>(argument);
            for (Index i = 0; i < k.count; ++i) {
                const Index row = k.which[i];
                if (row % team.size != team.rank) continue;
                const S* from = k.source + i * k.width;
                S* to = k.target + row * k.width;
                const bool fresh = k.in_play[row] == 0;
                k.in_play[row] = 1;
                for (Index j = 0; j < k.width; j += width<S>) {
                    const Index now = smaller(width<S>, k.width - j);
                    const Vec<S> a = load(from + j, now);
                    store(to + j, fresh ? a : load(to + j, now) + a, now);
                }
            }
        },
        const_cast<AddRows<S>*>(&call));
}

template <class S> double sum_of_squares(Index rows, Index columns, const std::int64_t* which, const S* values) {
    constexpr Index block = 64;  // rows whose sum one thread takes, whichever it is
    const Index blocks = (rows + block - 1) / block;
    double* sums = reinterpret_cast<double*>(scratch(static_cast<std::size_t>(blocks) * sizeof(double)));
    over_rows(blocks, rows * columns, [&](Index first, Index last, int) {
        for (Index b = first; b < last; ++b) {
            double sum = 0;
            for (Index r = b * block; r < smaller(rows, (b + 1) * block); ++r) {
                const S* x = values + (which == nullptr ? r : which[r]) * columns;
                for (Index start = 0; start < columns; start += chain * width<S>) {
                    const Index stop = smaller(columns, start + chain * width<S>);
                    Vec<S> a{};
                    Index j = start;
                    for (; j + width<S> <= stop; j += width<S>) a = fmadd<S>(load(x + j), load(x + j), a);
                    if (j < stop) a += load(x + j, stop - j) * load(x + j, stop - j);
                    sum += static_cast<double>(total<S>(a));
                }
            }
            sums[b] = sum;
        }
    });
    double sum = 0;
    for (Index b = 0; b < blocks; ++b) sum += sums[b];
    return sum;
}

}  // namespace

}  // namespace glassgate::kernels::GG_ISA
