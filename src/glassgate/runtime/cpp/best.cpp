// The best of a softmax without a sort: one pass for the maximum, one for the sum, one for the k largest.
#include "rows.hpp"

#include "softmax.hpp"

namespace glassgate::runtime {

namespace {

// Places come rising, so that an equal one is never better. The worst stands first.
template <class S> INLINE void offer(std::vector<Entry<S>>& heap, Index k, S value, Index place) {
    if (Index(heap.size()) == k) {
        if (!(value > heap.front().first)) return;
        std::pop_heap(heap.begin(), heap.end(), better<S>);
        heap.back() = {value, place};
    } else {
        heap.emplace_back(value, place);
    }
    std::push_heap(heap.begin(), heap.end(), better<S>);
}

template <class S> INLINE Softmax<S> summed(const S* z, Index entries) {
    const S most = maximum(z, entries);
    return {most, S(std::log(sum_of_exponentials(z, entries, most)))};
}

template <class S> INLINE Softmax<S> all_best(const Choice& choice, const S* z, S share, std::vector<Entry<S>>& heap) {
    const Softmax<S> softmax = summed(z, choice.entries);
    const Index never = choice.never - choice.start;
    heap.clear();
    if (!std::isfinite(softmax.log_sum)) return softmax;
    // What is compared is log y as it is told: logits that differ may round to the same. It never falls where the logit rises.
    const auto log_y = [&](S logit) { return ((logit - softmax.most) - softmax.log_sum) + share; };
    if (choice.allowed != nullptr) {
        for (Index i = 0; i < choice.count; ++i) {
            const Index place = choice.allowed[i] - choice.start;
            if (place != never) offer(heap, choice.k, log_y(z[place]), choice.allowed[i]);
        }
    } else {
        for (Index j = 0; j < choice.words; j += block) {
            const Index stop = std::min(j + block, choice.words);
            const bool full = Index(heap.size()) == choice.k;
            if (full && stop == j + block && !(log_y(block_maximum(z + j)) > heap.front().first)) continue;
            for (Index i = j; i < stop; ++i)
                if (i != never) offer(heap, choice.k, log_y(z[i]), choice.start + i);
        }
    }
    std::sort_heap(heap.begin(), heap.end(), better<S>);
    return softmax;
}

template <class S> INLINE bool all_logs(Index rows, Index entries, S* z) {
    bool numbers = true;
    for (Index r = 0; r < rows; ++r, z += entries) {
        const Softmax<S> softmax = summed(z, entries);
        for (Index j = 0; j < entries; ++j) z[j] = (z[j] - softmax.most) - softmax.log_sum;
        numbers = numbers && std::isfinite(softmax.log_sum);
    }
    return numbers;
}

}  // namespace

FOR_EACH_MACHINE Softmax<float> best_entries(const Choice& choice, const float* z, float share,
                                             std::vector<Entry<float>>& best) {
    return all_best(choice, z, share, best);
}
FOR_EACH_MACHINE Softmax<double> best_entries(const Choice& choice, const double* z, double share,
                                              std::vector<Entry<double>>& best) {
    return all_best(choice, z, share, best);
}
FOR_EACH_MACHINE bool log_softmax(Index rows, Index entries, float* z) { return all_logs(rows, entries, z); }
FOR_EACH_MACHINE bool log_softmax(Index rows, Index entries, double* z) { return all_logs(rows, entries, z); }

}  // namespace glassgate::runtime
