// What the output layer computes in streaming, one thread each; bindings.cpp checks the sizes of the buffers.
#pragma once

#include <cstdint>

namespace glassgate::runtime {

using Index = std::int64_t;

#if defined(__x86_64__)
#define FOR_EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_MACHINE
#endif
#define INLINE inline __attribute__((always_inline))

// y = V h + c. V [rows, width] in one form, scales [rows] with int8 alone; c may be null.
void product_single(Index rows, Index width, const void* V, const float* scales, const void* c, const void* h, void* y);
void product_double(Index rows, Index width, const void* V, const float* scales, const void* c, const void* h, void* y);
void product_bf16(Index rows, Index width, const void* V, const float* scales, const void* c, const void* h, void* y);
void product_int8(Index rows, Index width, const void* V, const float* scales, const void* c, const void* h, void* y);

// The softmax of each row of logits [rows, entries], and its k best entries.
//
//     most[r]      = max_j logits[r][j]
//     log_sum[r]   = log(sum_j exp(logits[r][j] - most[r]))
//     values[r], places[r]: the k largest of the first `words` logits, the larger first; of equals the earlier first.
//
// `allowed` [count], rising: only these places may come; null: all. `never` may not come; -1: none is barred. Where fewer than
// k may come, the values behind them are -infinity and the places the largest Index.
struct Choice {
    Index rows, entries, words, k, never, count;
    const Index* allowed;
};
void best_single(const Choice& choice, const float* logits, float* most, float* log_sum, float* values, Index* places);
void best_double(const Choice& choice, const double* logits, double* most, double* log_sum, double* values, Index* places);

// V, roughly: rows of int8 with a scale, and how far each row of V may be from it.
struct Sketch {
    Index rows, width;
    const std::int8_t* integers;  // [rows, width]
    const float *scales, *errors, *lengths;  // [rows]: |V - scale * integers| and max(|V|, |scale * integers|), 2-norms
    const float* c;  // [rows], or null
};
// result[m] >= log(max_j y_j) for y = softmax(V h[m] + c), from the sketch alone: a cluster whose own share times this is too
// small holds none of the best words. h [count, width].
void highest_log_shares(const Sketch& sketch, Index count, const float* h, float* result);

}  // namespace glassgate::runtime
