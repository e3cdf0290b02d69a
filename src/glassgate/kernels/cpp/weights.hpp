// What the gradients on the pre-activations of a chunk of steps give to the weights and the biases.
#pragma once

#include "forward.hpp"

namespace glassgate::kernels::GG_ISA {

// The gradients on the pre-activations of a step are one row of `parts` blocks of H, as a depth, for each sequence:
//     LSTM        [i f g o]    both the input side and the hidden side see all four
//     GRU after   [r z m n]    the hidden side sees r z m, the input side r z n
//     GRU before  [r z n]      n meets r * h where r and z meet h
inline Index gradient_parts(Cell cell) { return cell == Cell::gru_before ? 3 : 4; }

template <class S, class O> class WeightGradients {
  public:
    // `stride` lies between the rows of r * h.
    WeightGradients(const Backward<S>& call, const Schedule& schedule, Index chunk, Index stride, int threads)
        : c_(call), schedule_(schedule), N(call.sizes.N), I(call.sizes.I), H(call.sizes.H),
          part_(deep<O>(call.sizes.H)), G(gate_count(call.cell)), parts_(gradient_parts(call.cell)), chunk_(chunk),
          stride_(stride), threads_(threads), cuts_{columns_of<S>(call.sizes.I, 2), columns_of<S>(call.sizes.H, 2)} {}

    void cut(Cutter& cutter) {
        blocks_ = cutter.take<O>(wanted() ? round_up(parts_ * part_, transposed_rows) * transposed_stride(chunk_ * N) : 0);
        panel_ = cutter.take<O>(wanted() ? threads_ * panel_size() : 0);
        rows_ = cutter.take<const S*>(wanted() ? threads_ * chunk_ * N : 0);
        for (int side = 0; side < 2; ++side)
            sums_[side] = cutter.take<S>(out(side) == nullptr ? 0 : cuts_[side].template packed<S>(G * part_));
    }

    void clear(const Team& team) {
        for (int side = 0; side < 2; ++side)
            if (out(side) != nullptr) zero_share(sums_[side], cuts_[side].template packed<S>(G * part_), team);
        for (S* bias : {c_.d_b_ih, c_.d_b_hh})
            if (bias != nullptr) zero_share(bias, G * H, team);
    }

    // Adds steps s0 to s1; `rows` are the gradients of their `count` active rows, `reset_h` the chunk's r * h; waits inside.
    void add(Index s0, Index s1, const O* const* rows, Index count, const S* reset_h, const Team& team) {
        add_biases(rows, count, share(ceil_div(parts_ * part_, W), team.rank, team.size));
        if (!wanted()) return;
        turn(rows, count, share(ceil_div(parts_ * part_, transposed_rows), team.rank, team.size));
        team.wait();
        add_weights(s0, s1, count, reset_h, team);
    }

    // The sums, which lie panel by panel, to their rows.
    void spread(const Team& team) const {
        for (int side = 0; side < 2; ++side) {
            S* to = out(side);
            if (to == nullptr) continue;
            const Columns& cut = cuts_[side];
            const Range rows = share(G * H, team.rank, team.size);
            for (Index m = rows.begin; m < rows.end; ++m)
                for (Index p = 0; p < cut.panels(); ++p) {
                    const int vectors = cut.template vectors<S>(p);
                    const S* from = sums_[side] + cut.offset(p, G * part_) + (m / H * part_ + m % H) * vectors * W;
                    for (int v = 0; v < vectors; ++v)
                        store(to + m * cut.columns + cut.first(p) + v * W, load(from + v * W),
                              min(W, cut.count(p) - v * W));
                }
        }
    }

  private:
    static constexpr Index W = width<S>;
    // How the gradients are turned, so that a product reads them as its rows: in blocks of `high` rows, k by k, as many as
    // a product takes at once, or row by row where neighbouring k belong together.
    static constexpr bool by_rows = Operand<O>::together > 1;
    static constexpr Index high = max_rows<O, 2>;
    static constexpr Index transposed_rows = by_rows ? W : high;
    static Index transposed_stride(Index count) { return by_rows ? row_stride<O>(round_up(count, 2 * W)) : count; }
    Index panel_size() const { return 2 * W * deep<O>(chunk_ * N); }

    static constexpr Index short_sum = 16;
    static constexpr Index slice_ = 4 * tile_rows;       // rows of a job, so that few panels still divide evenly

    bool wanted() const { return c_.d_w_ih != nullptr || c_.d_w_hh != nullptr; }
    S* out(int side) const { return side == 0 ? c_.d_w_ih : c_.d_w_hh; }

    void turn(const O* const* rows, Index count, Range blocks) {
        for (Index b = blocks.begin; b < blocks.end; ++b) {
            const Index first = b * transposed_rows;
            O* to = blocks_ + first * transposed_stride(count);
            if constexpr (by_rows) turn_pairs(rows, count, first, to);
            else copy_block(rows, count, first, to);
        }
    }
    // to[k][high]
    void copy_block(const O* const* rows, Index count, Index first, O* to) const {
        const Index valid = min(high, parts_ * H - first);
        if (valid == high)
            for (Index k = 0; k < count; ++k) std::memcpy(to + k * high, rows[k] + first, high * sizeof(O));
        else
            for (Index k = 0; k < count; ++k, to += high)
                for (Index j = 0; j < valid; ++j) to[j] = rows[k][first + j];
    }
    // to[W][stride]: pairs of k are turned as floats are. Behind `count` come zeros, to the end of a unit at least.
    template <class Pair> void turn_pairs(const Pair* const* rows, Index count, Index first, Pair* to) const {
        const Index valid = min(W, parts_ * part_ - first), stride = transposed_stride(count);
        for (Index k = 0; k < count; k += 2 * W) {
            Vec<float> pairs[W];
            for (Index i = 0; i < W; ++i) {
                const Index at = k + 2 * i;
                Mask<float> both{};
                if (at < count) both = load_bits(rows[at] + first, valid);
                if (at + 1 < count) both |= load_bits(rows[at + 1] + first, valid) << 16;
                pairs[i] = (Vec<float>)both;
            }
            transpose<float>(pairs);
            for (Index j = 0; j < W; ++j) std::memcpy(to + j * stride + k, &pairs[j], sizeof pairs[j]);
        }
    }

    // Part `part` of a row of gradients -> the gate whose weights it belongs to, on either side; -1: none.
    int gate_of(Index part, bool input_side) const {
        if (c_.cell != Cell::gru_after || part < 2) return static_cast<int>(part);
        return input_side == (part == 3) ? 2 : -1;
    }

    void add_biases(const O* const* rows, Index count, Range vectors) {
        if (c_.d_b_ih == nullptr && c_.d_b_hh == nullptr) return;
        for (Index v = vectors.begin; v < vectors.end; ++v) {
            const Index first = v * W, valid = min(W, parts_ * part_ - first);
            Vec<S> sum{};
            for (Index k = 0; k < count;) {  // sums of sums: the rounding errors of a long one grow with its length
                Vec<S> part{};
                for (const Index end = min(k + short_sum, count); k < end; ++k) part += load(rows[k] + first, valid);
                sum += part;
            }
            for (Index lane = 0; lane < valid; ++lane) {
                const Index part = (first + lane) / part_, unit = (first + lane) % part_;
                if (unit >= H) continue;
                const int input = gate_of(part, true), hidden = gate_of(part, false);
                if (c_.d_b_ih != nullptr && input >= 0) c_.d_b_ih[input * H + unit] += sum[lane];
                if (c_.d_b_hh != nullptr && hidden >= 0) c_.d_b_hh[hidden * H + unit] += sum[lane];
            }
        }
    }

    // Which columns [from, to) of the gradients meet which rows, and where the product goes: sums_[side] from row `from -
    // shift` on. Rows: 0: x, 1: the hidden states before, 2: r * h.
    struct Segment {
        int side, rows;
        Index from, to, shift;
    };
    int segments(Segment* list) const {
        int count = 0;
        if (c_.d_w_ih != nullptr) {
            if (c_.cell == Cell::gru_after) {
                list[count++] = {0, 0, 0, 2 * part_, 0};
                list[count++] = {0, 0, 3 * part_, 4 * part_, part_};
            } else {
                list[count++] = {0, 0, 0, parts_ * part_, 0};
            }
        }
        if (c_.d_w_hh != nullptr) {
            if (c_.cell == Cell::gru_before) {
                list[count++] = {1, 1, 0, 2 * part_, 0};
                list[count++] = {1, 2, 2 * part_, 3 * part_, 0};
            } else {
                list[count++] = {1, 1, 0, G * part_, 0};
            }
        }
        return count;
    }

    void add_weights(Index s0, Index s1, Index count, const S* reset_h, const Team& team) {
        Segment list[4];
        const int number = segments(list);
        Index total = 0;
        for (int i = 0; i < number; ++i) total += cuts_[list[i].side].panels() * slices(list[i]);
        const Range mine = share(total, team.rank, team.size);
        O* panel = panel_ + team.rank * panel_size();
        const S** rows = rows_ + team.rank * chunk_ * N;
        int gathered = -1;
        for (int i = 0, base = 0; i < number; ++i) {
            const Segment& one = list[i];
            const Columns& cut = cuts_[one.side];
            const Index jobs = cut.panels() * slices(one);
            Index packed = -1;
            for (Index job = max(mine.begin - base, 0); job < min(mine.end - base, jobs); ++job) {
                const Index p = job / slices(one), from = one.from + job % slices(one) * slice_;
                if (gathered != one.rows) gather(s0, s1, reset_h, rows, gathered = one.rows);
                if (packed != p) pack_column_panel([&](Index k) { return rows[k]; }, count, cut, packed = p, panel);
                weight_tiles(one, from, min(from + slice_, one.to), count, cut, p, panel);
            }
            base += static_cast<int>(jobs);
        }
    }
    static Index slices(const Segment& one) { return ceil_div(one.to - one.from, slice_); }

    void gather(Index s0, Index s1, const S* reset_h, const S** rows, int kind) const {
        for (Index s = s0; s < s1; ++s) {
            const Index t = schedule_.time(s), active = schedule_.active(t);
            for (Index row = 0; row < active; ++row)
                *rows++ = kind == 0   ? c_.x + (t * N + schedule_.sequence(row)) * I
                          : kind == 1 ? schedule_.previous(row, t, c_.hidden, c_.h0, H)
                                      : reset_h + (s % chunk_ * N + row) * stride_;
        }
    }

    void weight_tiles(const Segment& one, Index from, Index to, Index count, const Columns& cut, Index p, const O* panel) {
        const int vectors = cut.vectors<S>(p);
        S* sums = sums_[one.side] + cut.offset(p, G * part_);
        const Index stride = transposed_stride(count);
        for (Index m = from; m < to; m += tile_rows) {
            const Index rows = min(tile_rows, to - m);
            const O* a[tile_rows];
            for (Index r = 0; r < rows; ++r)
                a[r] = by_rows ? blocks_ + (m + r) * stride : blocks_ + (m + r) / high * high * count + (m + r) % high;
            constexpr int apart = by_rows ? 1 : static_cast<int>(high);
            product<O, apart>(vectors, rows, count, a, panel, sums + (m - one.shift) * vectors * W);
        }
    }

    const Backward<S>& c_;
    const Schedule& schedule_;
    const Index N, I, H, part_;  // part_: H as a depth
    const int G;
    const Index parts_, chunk_, stride_;
    const int threads_;
    const Columns cuts_[2];  // of the input side and the hidden side
    O *blocks_ = nullptr, *panel_ = nullptr;
    const S** rows_ = nullptr;
    S* sums_[2] = {};  // d_w_ih and d_w_hh, cut into the panels of their columns
};

}  // namespace glassgate::kernels::GG_ISA
