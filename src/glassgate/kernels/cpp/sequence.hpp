// Which rows are at work in which step, and which thread does what.
//
// Rows are ordered by falling length, so that the active ones of any step are the first ones: a ragged batch costs its
// own steps only.
#pragma once

#include "kernels.hpp"
#include "panel.hpp"
#include "team.hpp"

namespace glassgate::kernels::GG_ISA {

// Cuts one scratch allocation into arrays. With a null base it only counts.
class Cutter {
  public:
    explicit Cutter(std::byte* base) : base_(base) {}
    template <class T> T* take(Index count) {
        T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
        used_ += static_cast<std::size_t>(round_up(count * static_cast<Index>(sizeof(T)), 128)) + 128;
        return part;
    }
    std::size_t used() const { return used_ + 128; }

  private:
    std::byte* base_;
    std::size_t used_ = 0;
};

template <class S> inline void zero(S* to, Index count) {
    std::memset(to, 0, static_cast<std::size_t>(count) * sizeof(S));
}
template <class S> inline void zero_share(S* to, Index count, const Team& team) {
    const Range part = share(count, team.rank, team.size);
    zero(to + part.begin, part.end - part.begin);
}

class Schedule {
  public:
    void cut(Cutter& cutter, Index N) {
        order_ = cutter.take<Index>(N);
        length_ = cutter.take<Index>(N);
    }
    void set(const Sizes& sizes, const std::int64_t* lengths, const std::uint8_t* resets, bool reverse) {
        T_ = sizes.T;
        N_ = sizes.N;
        resets_ = resets;
        reverse_ = reverse;
        for (Index n = 0; n < N_; ++n) {
            order_[n] = n;
            length_[n] = lengths == nullptr ? T_ : lengths[n];
        }
        if (lengths == nullptr) return;
        // Shell sort: in place, no library code in a file that is compiled for one instruction set.
        for (Index gap = N_ / 2; gap > 0; gap /= 2)
            for (Index i = gap; i < N_; ++i)
                for (Index j = i; j >= gap && behind(j - gap, j); j -= gap) {
                    swap(order_[j], order_[j - gap]);
                    swap(length_[j], length_[j - gap]);
                }
    }
    // The step that comes `s`-th, and back.
    Index time(Index s) const { return reverse_ ? T_ - 1 - s : s; }
    Index sequence(Index row) const { return order_[row]; }
    Index length(Index row) const { return length_[row]; }
    // How many of `rows` first rows are active at time t.
    Index active(Index t) const {
        Index low = 0, high = N_;
        while (low < high) {
            const Index middle = (low + high) / 2;
            if (length_[middle] > t) low = middle + 1;
            else high = middle;
        }
        return low;
    }
    bool is_active(Index row, Index t) const { return t >= 0 && t < length_[row]; }
    Index before(Index t) const { return reverse_ ? t + 1 : t - 1; }  // the step taken just before t
    Index after(Index t) const { return reverse_ ? t - 1 : t + 1; }
    Index first_time(Index row) const { return reverse_ ? length_[row] - 1 : 0; }
    bool reset(Index row, Index t) const { return resets_ != nullptr && resets_[t * N_ + order_[row]] != 0; }
    bool starts(Index row, Index t) const { return t == first_time(row); }

    // The state that entered step t of a row: from `all` [T, N, H], or from `initial` [N, H]; null stands for zeros.
    template <class S> const S* previous(Index row, Index t, const S* all, const S* initial, Index H) const {
        if (reset(row, t)) return nullptr;
        const Index n = order_[row];
        if (starts(row, t)) return initial == nullptr ? nullptr : initial + n * H;
        return all + (before(t) * N_ + n) * H;
    }

  private:
    bool behind(Index a, Index b) const {
        return length_[a] < length_[b] || (length_[a] == length_[b] && order_[a] > order_[b]);
    }
    static void swap(Index& a, Index& b) {
        const Index c = a;
        a = b;
        b = c;
    }
    Index T_ = 0, N_ = 0;
    const std::uint8_t* resets_ = nullptr;
    bool reverse_ = false;
    Index* order_ = nullptr;
    Index* length_ = nullptr;
};

// How a step is divided. `by_rows`: each thread keeps its own sequences for the whole length and never waits inside; good
// when the weights are small enough for every core's own cache. Otherwise all threads share each step's tiles of
// (panel, row block), and wait for one another after it.
struct Division {
    bool by_rows;
    Index rank, size;

    // Rows of this thread among the first `active`: row r belongs to thread r % size, so that ragged lengths spread.
    Index own_rows(Index active) const { return by_rows ? (active - rank + size - 1) / size : active; }
    Index row(Index i) const { return by_rows ? i * size + rank : i; }

    // Calls work(panel, first, last) for this thread's tiles; first and last count own rows, at most tile_rows at once.
    // `back` begins with the last panel.
    template <class Work> GG_INLINE void tiles(Index panels, Index active, Index block, bool back, Work&& work) const {
        const Index rows = own_rows(active);
        if (rows <= 0) return;
        const Index blocks = ceil_div(rows, block);
        const Range mine = by_rows ? Range{0, panels * blocks} : share(panels * blocks, rank, size);
        const Index first = mine.begin / blocks, behind = ceil_div(mine.end, blocks), most = tile_rows / block;
        for (Index i = first; i < behind; ++i) {
            const Index p = back ? first + behind - 1 - i : i;
            const Index end = min(mine.end - p * blocks, blocks);
            for (Index b = max(mine.begin - p * blocks, 0); b < end;) {
                const Index now = ceil_div(end - b, ceil_div(end - b, most));
                work(p, b * block, min((b + now) * block, rows));
                b += now;
            }
        }
    }
};

// How many threads a call is worth, and whether they share rows or tiles. The results do not depend on it. `turns`: where
// every step reads weights that fill more than a thread's own cache, a step finds in it what the one before read last, if
// they take turns in the order; in one order they would find nothing. A single step reads those of the inputs too.
struct Plan {
    int threads;
    bool by_rows, turns;
    bool back(Index s) const { return turns && s % 2 != 0; }
};
inline Plan plan_for(const Sizes& z, int gates, Index element, int threads) {
    const double step = 2.0 * static_cast<double>(z.N) * gates * z.H * z.H;
    const double total = z.T * (step + 2.0 * z.N * gates * z.H * z.I);
    const int most = threads > 0 ? threads : kernels::threads();
    const Index weights = gates * z.H * z.H * element;
    const bool turns = weights + (z.T == 1 ? gates * z.H * z.I * element : 0) > most * 512 * 1024;
    if (most <= 1 || total < 4e5) return {1, false, turns};
    const bool by_rows = z.N >= 2 * most && (weights <= 256 * 1024 || step < 4e5);
    if (!by_rows && z.T > 1 && step < 6e4) return {1, false, turns};  // a step would last no longer than its barrier
    return {most, by_rows, turns};
}

// Steps of a chunk of about `rows` rows: enough for the large products, few enough for the outer caches.
inline Index chunk_steps(const Sizes& z, Index rows) { return max(1, min(z.T, rows / max(1, z.N))); }
inline Index backward_rows(const Sizes& z, Index element) {
    const Index rows = 2048 / element;
    return z.T * z.N <= 2 * rows ? 2 * rows : rows;  // one chunk alone keeps no sums
}
inline Index forward_rows(const Sizes& z, int gates, Index element) {
    return min(512, max(128, (1 << 20) / max(1, gates * z.H * element)));
}

}  // namespace glassgate::kernels::GG_ISA
