// The passes around the output layer's matrix products, and AdamW on rows: plain functions on plain pointers.
//
// Every array is dense and row-major unless a stride is named, S is float or double, all buffers belong to the caller.
// Results do not depend on the number of threads: a row, or a block of a sum, is computed by one thread in one order.
#pragma once

#include <cstdint>

namespace glassgate::kernels {

// Softmax and cross-entropy of a block of logits, and the gradient in their place:
//
//     z[r][j]      = x[r][j] + bias[j]
//     loss[r]      = log(sum_j exp(z[r][j])) - z[r][targets[r]]
//     x[r][j]     <- scale * (exp(z[r][j]) / sum_j exp(z[r][j]) - [j = targets[r]])
template <class S> struct SoftmaxLoss {
    std::int64_t rows, entries;
    std::int64_t stride;          // from one row of x to the next, at least `entries`
    S* x;                         // in: logits, out: gradient
    const S* bias;                // [entries], null: zeros
    const std::int64_t* targets;  // [rows], each from 0 to entries - 1 (the caller answers for that)
    S scale;
    S* loss;                      // out [rows]
};

// The same for logits in bfloat16, widened row by row; the gradient is rounded to the nearest, ties to even.
struct RoundedSoftmaxLoss {
    std::int64_t rows, entries;
    std::uint16_t* x;             // in: logits, out: gradient
    const float* bias;            // [entries], null: zeros
    const std::int64_t* targets;  // [rows], as above
    float scale;
    float* loss;                  // out [rows]
    float* d_bias;                // [entries]: the rows of x, one after the other, are added to it; null: not wanted
};

// Rows of a matrix and of AdamW's two moments.
template <class S> struct AdamRows {
    std::int64_t rows, width;
    const std::int64_t* which;  // [rows] those that are meant, rising; null: the first `rows`
    S *p, *m, *v;
};

// AdamW (Loshchilov and Hutter 2019) on rows of a matrix, one step t with learning rate a and gradient clip * g:
//
//     m <- beta1 m + (1 - beta1) clip g
//     v <- beta2 v + (1 - beta2) (clip g)^2
//     p <- (1 - a decay) p - a / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + epsilon)
template <class S> struct AdamStep : AdamRows<S> {
    const S* g;          // of the same rows
    double beta1, beta2, epsilon;
    double clip;
    double shrink;       // 1 - a decay
    double step;         // a / (1 - beta1^t)
    double correction;   // sqrt(1 - beta2^t)
};

// What steps without a gradient would have done to rows that were left out of them, all at once: with k = now - stamp
//
//     p <- shrink[stamp] p - move[stamp] m / (sqrt(v) + epsilon), 0 where m = 0
//     m <- beta1^k m,  v <- beta2^k v,  stamp <- now
template <class S> struct AdamCatchUp : AdamRows<S> {
    std::int64_t* stamp;        // of each row of p: the step that last brought it up to date, from 0 to now
    std::int64_t now;
    const double *shrink, *move;    // [now + 1]
    const double *power1, *power2;  // [now + 1]: beta1^k and beta2^k
    double epsilon;
};

// Adds source[i] to row which[i] of target, i = 0, 1, ... in this order; a row that is not in play yet is set instead.
template <class S> struct AddRows {
    std::int64_t count, width;
    const std::int64_t* which;  // [count] rows of target, repeated at will
    const S* source;            // [count, width]
    S* target;
    std::uint8_t* in_play;      // of each row of target, 0 or 1; set to 1 where something is added
};

template <class S> void softmax_loss(const SoftmaxLoss<S>& call);
void rounded_softmax_loss(const RoundedSoftmaxLoss& call);
template <class S> void adam_step(const AdamStep<S>& call);
template <class S> void adam_catch_up(const AdamCatchUp<S>& call);
template <class S> void add_rows(const AddRows<S>& call);

// The sum of squares of the chosen rows, in double precision.
template <class S>
double sum_of_squares(std::int64_t rows, std::int64_t width, const std::int64_t* which, const S* values);

}  // namespace glassgate::kernels
