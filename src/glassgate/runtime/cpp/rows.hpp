// What the output layer computes in streaming: products with V as it is stored, and the exact best words of a softmax.
// bindings.cpp checks the sizes of the buffers.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace glassgate::runtime {

using Index = std::int64_t;

#if defined(__x86_64__)
#define FOR_EACH_MACHINE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_MACHINE
#endif
#define INLINE inline __attribute__((always_inline))

enum Form { single, doubles, bf16, int8 };

// Rows of V as they lie in memory; scales [rows] with int8 alone. What is computed with it, and c, is float, but double for
// double.
struct Matrix {
    Form form;
    Index rows, width;
    const void* values;
    const float* scales;

    Index row_bytes() const { return width * (form == single ? 4 : form == doubles ? 8 : form == bf16 ? 2 : 1); }
    Matrix part(Index start, Index stop) const {
        const auto* const bytes = static_cast<const char*>(values);
        return {form, stop - start, width, bytes + start * row_bytes(), scales == nullptr ? nullptr : scales + start};
    }
};

// y[m] = V h[m] + c: h [count, width], y [count, V.rows]; c may be null. An element of y has the same bits whatever other rows
// and other h are there. One thread.
void products(const Matrix& V, const void* c, Index count, const void* h, void* y);

// Log of the softmax of each row of z [rows, entries], in place; false where a sum is no number.
bool log_softmax(Index rows, Index entries, float* z);
bool log_softmax(Index rows, Index entries, double* z);

// A number and its place; the better has the larger number, of equals the lower place.
template <class S> using Entry = std::pair<S, Index>;
template <class S> INLINE bool better(const Entry<S>& a, const Entry<S>& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
}

// Which of the first `words` entries of a row may be chosen: those of `allowed` [count], rising, or all where it is null; never
// `never`. Both are counted from -start on.
struct Choice {
    Index entries, words, k, start, never, count;
    const Index* allowed;
};
template <class S> struct Softmax {
    S most, log_sum;  // max_j z_j, and log(sum_j exp(z_j - most))
};
// The k best entries with log y = z - most - log_sum + share, the best first, at places counted from -start on as well; fewer
// where there are no more, none where log_sum is no number.
Softmax<float> best_entries(const Choice& choice, const float* z, float share, std::vector<Entry<float>>& best);
Softmax<double> best_entries(const Choice& choice, const double* z, double share, std::vector<Entry<double>>& best);

}  // namespace glassgate::runtime
