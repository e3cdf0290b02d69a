// The exact best words under the full or the adaptive output, for one h or many.
#pragma once

#include "sketch.hpp"

#include <atomic>
#include <memory>
#include <mutex>

namespace glassgate::runtime {

// The first part is the head, its softmax goes over its words and one entry for each of the other parts, the clusters.
// Parts that lie in one piece of V are equally wide, and multiply the same h.
struct Layout {
    struct Part {
        Matrix V;
        Index piece;
    };
    std::vector<Part> parts;
    const void* c;                // [words], or null
    std::vector<Index> bounds;    // 0, where each cluster starts, the number of words
    const void *entries, *entry_biases;  // [clusters, width], or null; [clusters], or null

    bool twice() const { return parts[0].V.form == doubles; }
};

// h for each piece of V: [count, its width].
template <class S> using Features = std::vector<const S*>;

// Which words: `allowed` [allowed_count], rising, or all where it is null; never `never`.
struct Wanted {
    Index k, never, allowed_count;
    const Index* allowed;
};

class Output {
  public:
    explicit Output(Layout layout);
    ~Output();

    // From now on the sketches of a piece's clusters are asked after coarser ones along other axes. Once for each piece at most.
    void turn(Index piece, std::unique_ptr<const Turn> turn);

    // Writes the k best words of each of `count` h, given for each piece of V as wide as it is, and log y in double, and returns how many there are for each (fewer
    // than k where no more may come); -1 where the probabilities are no numbers. numbers, logs [count, k]. What is found for
    // one h, to the bit, depends neither on the others nor on the number of threads.
    Index best(const Wanted& wanted, Index count, const std::vector<const void*>& h, Index threads, Index* numbers, double* logs);

  private:
    template <class S> struct Work;
    template <class S> class Pool;
    struct Made {
        std::once_flag once;
        std::unique_ptr<const Sketch> sketch;
    };
    struct Cluster {
        std::atomic<bool> asked{false};
        Made whole, coarse;
    };

    template <class S>
    Index all_best(Pool<S>& pool, const Wanted&, Index count, const std::vector<const void*>& h, Index threads, Index*, double*);
    template <class S> Index group_best(Work<S>&, const Wanted&, Index count, const Features<S>& h, Index* numbers, double* logs);
    template <class S> bool visit(Work<S>&, const Wanted&, Index cluster, const Features<S>& h);
    template <class S> std::pair<S, S> race(const Work<S>&, const Wanted&, Index cluster, Index m) const;
    template <class S, class Find>
    void rule_out(Work<S>&, const Wanted&, Index cluster, const S* h, double worth, const Find& find);
    template <class... Axes> const Sketch& sketch(Made& made, Index cluster, const Axes&... axes) const;
    const void* biases(Index start) const;

    Layout layout_;
    Index clusters_;
    std::vector<Cluster> known_;
    std::vector<std::unique_ptr<const Turn>> turns_;        // of each piece,
    std::vector<std::atomic<const Turn*>> turned_;          // as soon as it is there
    std::mutex turning_;
    std::unique_ptr<Pool<float>> floats_;
    std::unique_ptr<Pool<double>> doubles_;
};

}  // namespace glassgate::runtime
