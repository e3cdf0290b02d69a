// The best of a softmax without a sort: one pass for the maximum, one for the sum, one for the k largest.
#include "rows.hpp"

#include "softmax.hpp"

namespace glassgate::runtime {

namespace {

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

}  // namespace glassgate::runtime
