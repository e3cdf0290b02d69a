// A word of a cluster is at most as probable as its cluster, so that one whose share is below the k-th best word so far need
// not be looked at; of the others the sketch rules out most. Those with the largest share come first: they raise the bar.
#include "output.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>

namespace glassgate::runtime {

namespace {

constexpr Index together = 64;          // h that share the reading of V at most,
constexpr Index held = Index(1) << 22;  // and how many logits of one part they may have
constexpr Index worth = 8;              // h that make up for starting a thread
constexpr Index few = 32;               // rows of V that are read by themselves before all of a cluster is

// The log of how far a cluster's share may be above the k-th best word for a sketch to be asked: beyond e^3 nine clusters in
// ten hold one of the best, and beyond e^2 the coarse sketch rules out too few (docs/performance-log.md).
constexpr double worth_a_sketch = 3, worth_a_coarse_one = 2;

template <class S> void reserve(std::vector<S>& memory, Index size) {
    if (Index(memory.size()) < size) memory.resize(size);
}

// Whether the logits of all rows stay below a number, where those whose upper bounds do not are few enough to be computed.
template <class S> bool none_reaches(const Matrix& V, const void* c, const float* highs, S reach, const S* h) {
    Index some[few], found = 0;
    for (Index r = 0; r < V.rows; ++r) {
        if (S(highs[r]) < reach) continue;
        if (found == few) return false;
        some[found++] = r;
    }
    for (Index i = 0; i < found; ++i) {
        S z;
        products(V.part(some[i], some[i] + 1), c == nullptr ? nullptr : static_cast<const S*>(c) + some[i], 1, h, &z);
        if (!(z < reach)) return false;
    }
    return true;
}

}  // namespace

// What one thread needs, kept for its next call.
template <class S> struct Output::Work {
    std::vector<S> head, logits, shares, gathered;
    std::vector<std::vector<Entry<S>>> best;  // of each h, the best first
    std::vector<Entry<S>> found, merged;
    std::vector<Index> order, chosen, asked, left;
    std::vector<float> least, most, highs, single;
    struct Integers {
        Rounded h;
        bool is_there;
    };
    std::vector<Integers> whole, coarse;  // of all h, for each piece of V; there when they are first asked for

    // What a sketch multiplies; made from h [best.size(), width] along the axes given, if any.
    template <class... Axes> const Rounded& integers(Integers& known, Index width, const S* h, const Axes&... axes) {
        if (known.is_there) return known.h;
        const Index count = Index(best.size());
        const float* given = nullptr;
        if constexpr (sizeof(S) == 4) given = h;
        else single.assign(h, h + count * width), given = single.data();
        if constexpr (sizeof...(axes) == 0) known.h.round(width, count, given);
        else known.h.round(axes..., count, given);
        known.is_there = true;
        return known.h;
    }
};

template <class S> class Output::Pool {
  public:
    std::unique_ptr<Work<S>> take() {
        const std::lock_guard lock(mutex_);
        if (free_.empty()) return std::make_unique<Work<S>>();
        auto work = std::move(free_.back());
        free_.pop_back();
        return work;
    }
    void give(std::unique_ptr<Work<S>> work) {
        const std::lock_guard lock(mutex_);
        free_.push_back(std::move(work));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Work<S>>> free_;
};

Output::Output(Layout layout)
    : layout_(std::move(layout)), clusters_(Index(layout_.bounds.size()) - 2), known_(clusters_),
      turns_(layout_.parts.back().piece + 1), turned_(turns_.size()), floats_(std::make_unique<Pool<float>>()),
      doubles_(std::make_unique<Pool<double>>()) {}
Output::~Output() = default;

const void* Output::biases(Index start) const {
    const Index bytes = layout_.twice() ? 8 : 4;
    return layout_.c == nullptr ? nullptr : static_cast<const char*>(layout_.c) + start * bytes;
}

// A cluster's sketch, made when it is first asked for.
template <class... Axes> const Sketch& Output::sketch(Made& made, Index cluster, const Axes&... axes) const {
    std::call_once(made.once, [&] {
        made.sketch = std::make_unique<const Sketch>(layout_.parts[cluster + 1].V, biases(layout_.bounds[cluster + 1]), axes...);
    });
    return *made.sketch;
}

void Output::turn(Index piece, std::unique_ptr<const Turn> turn) {
    const std::lock_guard lock(turning_);
    if (piece >= Index(turned_.size()) || turned_[piece] != nullptr) return;
    turns_[piece] = std::move(turn);
    turned_[piece] = turns_[piece].get();
}

// What a word of a cluster must be as probable as to be among the best of one h, and its cluster's share.
template <class S> std::pair<S, S> Output::race(const Work<S>& work, const Wanted& wanted, Index cluster, Index m) const {
    const auto& best = work.best[m];
    const S bar = Index(best.size()) < wanted.k ? -std::numeric_limits<S>::infinity() : best.back().first;
    return {bar, work.shares[m * clusters_ + cluster]};
}

// Asks a sketch, for the h in work.chosen whose clusters are not too probable, whether it holds one of the best words: takes out
// those for which it does not.
template <class S, class Find>
void Output::rule_out(Work<S>& work, const Wanted& wanted, Index cluster, const S* h, double worth, const Find& find) {
    const Matrix& V = layout_.parts[cluster + 1].V;
    const Index rows = V.rows;
    work.asked.clear(), work.left.clear();
    for (const Index m : work.chosen) {
        const auto [bar, share] = race(work, wanted, cluster, m);
        (share - bar <= S(worth) ? work.asked : work.left).push_back(m);
    }
    const Index count = Index(work.asked.size());
    if (count == 0) return;
    const auto& [sketch, rounded] = find();
    reserve(work.least, count);
    reserve(work.most, count);
    reserve(work.highs, count * rows);
    sketch.bound(rounded, work.asked, work.least.data(), work.most.data(), work.highs.data());
    const S slack = 8 * std::numeric_limits<S>::epsilon();
    for (Index i = 0; i < count; ++i) {
        const Index m = work.asked[i];
        const auto [bar, share] = race(work, wanted, cluster, m);
        // What a logit must reach to be among the best, less what these lines and log y round.
        const S reach = bar - share + S(work.least[i]) - slack * (std::abs(bar) + std::abs(share));
        if (S(work.most[i]) < reach) continue;  // no number rules nothing out
        if (none_reaches(V, biases(layout_.bounds[cluster + 1]), work.highs.data() + i * rows, reach, h + m * V.width)) continue;
        work.left.push_back(m);
    }
    work.chosen.swap(work.left);
}

// Looks at a cluster for the h in work.chosen; false where its softmax is no number.
template <class S> bool Output::visit(Work<S>& work, const Wanted& wanted, Index cluster, const Features<S>& features) {
    const auto& [V, piece] = layout_.parts[cluster + 1];
    const Index start = layout_.bounds[cluster + 1], stop = layout_.bounds[cluster + 2], width = V.width;
    const Index rows = stop - start;
    const S* const h = features[piece];
    const Index *first = wanted.allowed, *last = wanted.allowed + wanted.allowed_count;
    if (first != nullptr) {
        first = std::lower_bound(first, last, start), last = std::lower_bound(first, last, stop);
        if (first == last) return true;
    }
    const auto share = [&](Index m) { return work.shares[m * clusters_ + cluster]; };
    if (known_[cluster].asked.exchange(true)) {  // one prediction costs less than the sketch
        Cluster& known = known_[cluster];
        using Asked = std::pair<const Sketch&, const Rounded&>;
        if (const Turn* const turn = turned_[piece])
            rule_out(work, wanted, cluster, h, worth_a_coarse_one, [&]() -> Asked {
                return {sketch(known.coarse, cluster, *turn), work.integers(work.coarse[piece], width, h, *turn)};
            });
        rule_out(work, wanted, cluster, h, worth_a_sketch, [&]() -> Asked {
            return {sketch(known.whole, cluster), work.integers(work.whole[piece], width, h)};
        });
    }
    const Index count = Index(work.chosen.size());
    if (count == 0) return true;
    const S* x = h + work.chosen[0] * width;
    if (count > 1) {
        reserve(work.gathered, count * width);
        for (Index i = 0; i < count; ++i) std::copy_n(h + work.chosen[i] * width, width, work.gathered.begin() + i * width);
        x = work.gathered.data();
    }
    reserve(work.logits, count * rows);
    products(V, biases(start), count, x, work.logits.data());
    const Choice choice{rows, rows, wanted.k, start, wanted.never, last - first, first};
    for (Index i = 0; i < count; ++i) {
        const Index m = work.chosen[i];
        const Softmax<S> softmax = best_entries(choice, work.logits.data() + i * rows, share(m), work.found);
        if (!std::isfinite(softmax.log_sum)) return false;
        auto& best = work.best[m];
        work.merged.clear();
        std::merge(best.begin(), best.end(), work.found.begin(), work.found.end(), std::back_inserter(work.merged), better<S>);
        if (Index(work.merged.size()) > wanted.k) work.merged.resize(wanted.k);
        best.swap(work.merged);
    }
    return true;
}

template <class S>
Index Output::group_best(Work<S>& work, const Wanted& wanted, Index count, const Features<S>& h, Index* numbers, double* logs) {
    const Index first = layout_.bounds[1], entries = first + clusters_;
    const Matrix& V = layout_.parts[0].V;
    reserve(work.head, entries);
    reserve(work.shares, count * clusters_);
    reserve(work.logits, count * entries);
    work.best.resize(count);
    for (auto* const known : {&work.whole, &work.coarse}) {
        known->resize(h.size());
        for (auto& integers : *known) integers.is_there = false;
    }
    S* const words = work.logits.data();
    S* const shares = work.shares.data();
    products(V, layout_.c, count, h[0], words);
    if (clusters_ > 0)
        products({layout_.twice() ? doubles : single, clusters_, V.width, layout_.entries, nullptr}, layout_.entry_biases, count,
                 h[0], shares);
    const Index* const allowed = wanted.allowed;
    const Index inside =
        allowed == nullptr ? 0 : std::lower_bound(allowed, allowed + wanted.allowed_count, first) - allowed;
    const Choice choice{entries, first, wanted.k, 0, wanted.never, inside, allowed};
    for (Index m = 0; m < count; ++m) {
        std::copy_n(words + m * first, first, work.head.begin());
        std::copy_n(shares + m * clusters_, clusters_, work.head.begin() + first);
        const Softmax<S> softmax = best_entries(choice, work.head.data(), S(0), work.best[m]);
        if (!std::isfinite(softmax.log_sum)) return -1;
        for (Index i = m * clusters_; i < (m + 1) * clusters_; ++i)
            shares[i] = (shares[i] - softmax.most) - softmax.log_sum;
    }
    const auto largest = [&](Index cluster) {
        S most = shares[cluster];
        for (Index m = 1; m < count; ++m) most = std::max(most, shares[m * clusters_ + cluster]);
        return most;
    };
    std::vector<Entry<S>> order;
    for (Index cluster = 0; cluster < clusters_; ++cluster) order.emplace_back(largest(cluster), cluster);
    std::sort(order.begin(), order.end(), better<S>);
    for (const Entry<S>& entry : order) {
        work.chosen.clear();
        for (Index m = 0; m < count; ++m) {
            const auto& best = work.best[m];
            if (Index(best.size()) < wanted.k || shares[m * clusters_ + entry.second] >= best.back().first)
                work.chosen.push_back(m);
        }
        if (!work.chosen.empty() && !visit(work, wanted, entry.second, h)) return -1;
    }
    for (Index m = 0; m < count; ++m)
        for (Index i = 0; i < Index(work.best[m].size()); ++i) {
            numbers[m * wanted.k + i] = work.best[m][i].second;
            logs[m * wanted.k + i] = double(work.best[m][i].first);
        }
    return Index(work.best[0].size());
}

template <class S>
Index Output::all_best(Pool<S>& pool, const Wanted& wanted, Index count, const std::vector<const void*>& h, Index threads,
                       Index* numbers, double* logs) {
    threads = std::max(Index(1), std::min(threads, count / worth));
    Index widest = 1;
    for (Index i = 0; i <= clusters_; ++i) widest = std::max(widest, layout_.bounds[i + 1] - layout_.bounds[i]);
    const Index size = std::min({together, (count + threads - 1) / threads, std::max(Index(1), held / widest)});
    std::atomic<Index> next{0}, found{std::min(wanted.k, layout_.bounds.back())};
    std::exception_ptr failed;
    std::mutex failing;
    const auto run = [&] {
        try {
            auto work = pool.take();
            Features<S> own(h.size());
            for (Index start; (start = next.fetch_add(size)) < count;) {
                for (const auto& [V, piece] : layout_.parts) own[piece] = static_cast<const S*>(h[piece]) + start * V.width;
                const Index got = group_best(*work, wanted, std::min(size, count - start), own, numbers + start * wanted.k,
                                             logs + start * wanted.k);
                for (Index before = found; got < before && !found.compare_exchange_weak(before, got);) {}
            }
            pool.give(std::move(work));
        } catch (...) {
            const std::lock_guard lock(failing);
            failed = std::current_exception();
        }
    };
    // OpenMP's threads are those of the kernels: others of our own would wait for processors that these still hold.
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    run();
    if (failed) std::rethrow_exception(failed);
    return found;
}

Index Output::best(const Wanted& wanted, Index count, const std::vector<const void*>& h, Index threads, Index* numbers,
                   double* logs) {
    if (layout_.twice()) return all_best(*doubles_, wanted, count, h, threads, numbers, logs);
    return all_best(*floats_, wanted, count, h, threads, numbers, logs);
}

}  // namespace glassgate::runtime
