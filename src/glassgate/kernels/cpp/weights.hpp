// What the gradients on the pre-activations of a chunk of steps give to the weights and the biases.
#pragma once

#include "forward.hpp"

namespace glassgate::kernels::GG_ISA {

// The gradients on the pre-activations of a step are one row of `parts` blocks of H, as a depth, for each sequence:
//     LSTM        [i f g o]    both the input side and the hidden side see all four
//     GRU after   [r z m n]    the hidden side sees r z m, the input side r z n
//     GRU before  [r z n]      n meets r * h where r and z meet h
inline Index gradient_parts(Cell cell) { return cell == Cell::gru_before ? 3 : 4; }

// `P`: what the gradients on the pre-activations are given as, `O`: what they enter products as.
template <class S, class P, class O> class WeightGradients {
  public:
    // `stride` lies between the rows of r * h.
    WeightGradients(const Backward<S>& call, const Schedule& schedule, Index chunk, Index stride, int threads)
        : c_(call), schedule_(schedule), N(call.sizes.N), I(call.sizes.I), H(call.sizes.H),
          part_(deep<P>(call.sizes.H)), G(gate_count(call.cell)), parts_(gradient_parts(call.cell)), chunk_(chunk),
          stride_(stride), threads_(threads), cuts_{columns_of<S>(call.sizes.I, widest), columns_of<S>(call.sizes.H, widest)} {}

    void cut(Cutter& cutter) {
        blocks_ = cutter.take<O>(wanted() ? threads_ * block_size() : 0);
        rows_ = cutter.take<const S*>(wanted() ? threads_ * chunk_ * N : 0);
        for (int kind = 0; kind < kinds; ++kind)
            panels_[kind] = cutter.take<O>(meets(kind) ? cut_of(kind).template packed<S>(deep<O>(chunk_ * N)) : 0);
        for (int side = 0; side < 2; ++side)
            sums_[side] = cutter.take<S>(
                out(side) == nullptr ? 0 : cuts_[side].template packed<S>(keeps() ? G * part_ : threads_ * slice_rows));
    }

    void clear(const Team& team) {
        for (int side = 0; side < 2; ++side)  // no step, no sum
            if (out(side) != nullptr && c_.sizes.T == 0) zero_share(out(side), G * H * cuts_[side].columns, team);
        for (S* bias : {c_.d_b_ih, c_.d_b_hh})
            if (bias != nullptr) zero_share(bias, G * H, team);
    }

    // Adds steps s0 to s1, the last ones first; `rows` are the gradients of their `count` active rows, `reset_h` the chunk's
    // r * h; waits inside.
    void add(Index s0, Index s1, const P* const* rows, Index count, const S* reset_h, const Team& team) {
        add_biases(rows, count, share(ceil_div(parts_ * part_, W), team.rank, team.size));
        if (!wanted()) return;
        pack(s0, s1, count, reset_h, team);
        team.wait();
        add_weights(rows, count, {s1 == c_.sizes.T, s0 == 0}, team);
    }

  private:
    static constexpr Index W = width<S>;
    // How the gradients are turned, so that a product reads them as its rows: in blocks of `high` rows, k by k, as many as
    // a product takes at once, or row by row where neighbouring k belong together.
    static constexpr bool by_rows = Operand<O>::together > 1, in_parts = !std::is_same_v<O, P>;
    static constexpr Index high = max_rows<O, 2>;
    static constexpr Index transposed_rows = by_rows ? W : high;
    static Index transposed_stride(Index count) { return by_rows ? row_stride<O>(round_up(count, 2 * W)) : count; }
    // Rows of gradients that stay in a thread's own cache while they meet every panel.
    static constexpr Index slice_rows = (in_parts ? 2 : 1) * tile_rows / transposed_rows * transposed_rows;
    Index block_size() const { return slice_rows * transposed_stride(chunk_ * N); }

    static constexpr Index widest = in_parts ? 4 : 2;  // vectors of a panel
    static constexpr Index short_sum = 16;

    bool wanted() const { return c_.d_w_ih != nullptr || c_.d_w_hh != nullptr; }
    S* out(int side) const { return side == 0 ? c_.d_w_ih : c_.d_w_hh; }

    void turn(const P* const* rows, Index count, Range slice, O* to) const {
        for (Index first = slice.begin; first < slice.end; first += transposed_rows) {
            const Index valid = min(transposed_rows, slice.end - first);
            if constexpr (in_parts) turn_parts(rows, count, first, valid, to);
            else if constexpr (by_rows) turn_pairs(rows, count, first, valid, to);
            else copy_block(rows, count, first, valid, to);
            to += transposed_rows * transposed_stride(count);
        }
    }
    // to[k][high]
    static void copy_block(const O* const* rows, Index count, Index first, Index valid, O* to) {
        if (valid == high)
            for (Index k = 0; k < count; ++k) std::memcpy(to + k * high, rows[k] + first, high * sizeof(O));
        else
            for (Index k = 0; k < count; ++k, to += high)
                for (Index j = 0; j < valid; ++j) to[j] = rows[k][first + j];
    }
    // to[W][stride]: pairs of k are turned as floats are. Behind `count` come zeros, to the end of a unit at least.
    template <class Pair> static void turn_pairs(const Pair* const* rows, Index count, Index first, Index valid, Pair* to) {
        const Index stride = transposed_stride(count);
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

    // The same from rows of floats.
    static void turn_parts(const float* const* rows, Index count, Index first, Index valid, O* to) {
        const Index stride = transposed_stride(count);
        for (Index k = 0; k < count; k += 2 * W) {
            Vec<float> low[W], high[W];
            for (Index i = 0; i < W; ++i) {
                low[i] = k + i < count ? load(rows[k + i] + first, valid) : Vec<float>{};
                high[i] = k + W + i < count ? load(rows[k + W + i] + first, valid) : Vec<float>{};
            }
            transpose<float>(low);
            transpose<float>(high);
            for (Index j = 0; j < W; ++j) store_unit(to + j * stride + k, low[j], high[j]);
        }
    }

    // Part `part` of a row of gradients -> the gate whose weights it belongs to, on either side; -1: none.
    int gate_of(Index part, bool input_side) const {
        if (c_.cell != Cell::gru_after || part < 2) return static_cast<int>(part);
        return input_side == (part == 3) ? 2 : -1;
    }

    void add_biases(const P* const* rows, Index count, Range vectors) {
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

    // What the gradients meet. 0: x, 1: the hidden states before, 2: r * h.
    static constexpr int kinds = 3;
    bool meets(int kind) const { return out(kind > 0) != nullptr && (kind < 2 || c_.cell == Cell::gru_before); }
    const Columns& cut_of(int kind) const { return cuts_[kind > 0]; }

    void gather(Index s0, Index s1, const S* reset_h, const S** rows, int kind) const {
        for (Index s = s0; s < s1; ++s) {
            const Index t = schedule_.time(s), active = schedule_.active(t);
            for (Index row = 0; row < active; ++row)
                *rows++ = kind == 0   ? c_.x + (t * N + schedule_.sequence(row)) * I
                          : kind == 1 ? schedule_.previous(row, t, c_.hidden, c_.h0, H)
                                      : reset_h + (s % chunk_ * N + row) * stride_;
        }
    }
    void pack(Index s0, Index s1, Index count, const S* reset_h, const Team& team) {
        const S** rows = rows_ + team.rank * chunk_ * N;
        for (int kind = 0; kind < kinds; ++kind) {
            if (!meets(kind)) continue;
            const Columns& cut = cut_of(kind);
            const Range mine = share(cut.panels(), team.rank, team.size);
            if (mine.begin < mine.end) gather(s0, s1, reset_h, rows, kind);
            for (Index p = mine.begin; p < mine.end; ++p)
                pack_column_panel([&](Index k) { return rows[k]; }, count, cut, p,
                                  panels_[kind] + cut.offset(p, deep<O>(count)));
        }
    }

    // Parts `first` to `behind` of the gradients, the kinds that they meet, and how many parts later than in the weights'
    // gradients they lie.
    struct Meeting {
        Index first, behind;
        int kind[2];
        Index shift[2];
    };
    int meetings(Meeting* list) const {
        int count = 0;
        const auto add = [&](Index first, Index behind, int input, Index shift, int hidden) {
            Meeting one{first, behind, {-1, -1}, {}};
            int at = 0;
            if (input >= 0 && meets(input)) one.shift[at] = shift, one.kind[at++] = input;
            if (hidden >= 0 && meets(hidden)) one.kind[at++] = hidden;
            if (at > 0) list[count++] = one;
        };
        if (c_.cell == Cell::lstm) add(0, 4, 0, 0, 1);
        if (c_.cell != Cell::lstm) add(0, 2, 0, 0, 1);
        if (c_.cell == Cell::gru_before) add(2, 3, 0, 0, 2);
        if (c_.cell == Cell::gru_after) add(2, 3, -1, 0, 1), add(3, 4, 0, 1, -1);
        return count;
    }
    Index panels_of(const Meeting& one) const {
        return cut_of(one.kind[0]).panels() + (one.kind[1] < 0 ? 0 : cut_of(one.kind[1]).panels());
    }
    Index slices_of(const Meeting& one) const { return ceil_div((one.behind - one.first) * part_, slice_rows); }

    struct Chunk {  // of the steps, which are taken from the last to the first
        bool first, last;
    };
    void add_weights(const P* const* rows, Index count, Chunk chunk, const Team& team) {
        Meeting list[3];
        const int number = meetings(list);
        Index total = 0;
        for (int i = 0; i < number; ++i) total += slices_of(list[i]) * panels_of(list[i]);
        Range mine = share(total, team.rank, team.size);
        O* block = blocks_ + team.rank * block_size();
        for (int i = 0; i < number; ++i) {
            const Meeting& one = list[i];
            const Index panels = panels_of(one), jobs = slices_of(one) * panels;
            for (Index job = max(mine.begin, 0); job < min(mine.end, jobs);) {
                const Index s = job / panels, from = one.first * part_ + s * slice_rows;
                const Range slice{from, min(from + slice_rows, one.behind * part_)};
                Range own{job % panels, min(mine.end - s * panels, panels)};
                job += own.end - own.begin;
                if (s % 2 != 0) own = {panels - own.end, panels - own.begin};
                turn(rows, count, slice, block);
                const O* a[slice_rows];
                for (Index r = 0; r < slice_rows; ++r)
                    a[r] = block + (by_rows ? r * transposed_stride(count) : r / high * high * count + r % high);
                for (Index q = own.begin; q < own.end; ++q)
                    add_panel(one, s % 2 == 0 ? q : own.begin + own.end - 1 - q, slice, count, a, chunk, team);
                for (int which = 0; chunk.last && which < 2; ++which) spread(one, which, own, slice, team);
            }
            mine = {mine.begin - jobs, mine.end - jobs};
        }
    }

    bool keeps() const { return chunk_ < c_.sizes.T; }
    // The sums of a slice and a panel: [rows of the slice][lanes]. One chunk alone needs them for a slice at a time.
    S* sums_of(const Meeting& one, int which, Index p, Range slice, const Team& team) const {
        const int side = one.kind[which] > 0;
        const Index row = keeps() ? slice.begin - one.shift[which] * part_ : team.rank * slice_rows;
        return sums_[side] + cuts_[side].template packed<S>(row) + cuts_[side].offset(p, slice.end - slice.begin);
    }

    void add_panel(const Meeting& one, Index q, Range slice, Index count, const O* const* a, Chunk chunk,
                   const Team& team) const {
        const Index firsts = cut_of(one.kind[0]).panels(), height = slice.end - slice.begin;
        const int which = q < firsts ? 0 : 1, kind = one.kind[which];
        const Index p = q - which * firsts;
        const int vectors = cut_of(kind).template vectors<S>(p);
        S* sums = sums_of(one, which, p, slice, team);
        if (chunk.first) zero(sums, height * vectors * W);
        constexpr int apart = by_rows ? 1 : static_cast<int>(high);
        product<O, apart>(vectors, height, count, a, panels_[kind] + cut_of(kind).offset(p, deep<O>(count)), sums);
    }

    // Sums of a slice to where they belong, row by row.
    void spread(const Meeting& one, int which, Range panels, Range slice, const Team& team) const {
        if (one.kind[which] < 0) return;
        const int side = one.kind[which] > 0;
        const Columns& cut = cuts_[side];
        const Index firsts = which * cut_of(one.kind[0]).panels(), row = slice.begin - one.shift[which] * part_;
        const Index begin = max(panels.begin - firsts, 0), end = min(panels.end - firsts, cut.panels());
        Index unit = row % part_;
        S* to = out(side) + (row / part_ * H + unit) * cut.columns;
        for (Index r = 0; r < slice.end - slice.begin; ++r, unit = unit + 1 == part_ ? 0 : unit + 1) {
            if (unit >= H) continue;
            for (Index p = begin; p < end; ++p) {
                const int vectors = cut.template vectors<S>(p);
                const S* from = sums_of(one, which, p, slice, team) + r * vectors * W;
                for (int v = 0; v < vectors; ++v)
                    store(to + cut.first(p) + v * W, load(from + v * W), min(W, cut.count(p) - v * W));
            }
            to += cut.columns;
        }
    }

    const Backward<S>& c_;
    const Schedule& schedule_;
    const Index N, I, H, part_;  // part_: H as a depth
    const int G;
    const Index parts_, chunk_, stride_;
    const int threads_;
    const Columns cuts_[2];  // of the input side and the hidden side
    O* blocks_ = nullptr;        // a slice of turned gradients for each thread
    O* panels_[kinds] = {};      // what they meet, of a chunk
    const S** rows_ = nullptr;
    S* sums_[2] = {};            // of d_w_ih and d_w_hh, slice by slice
};

}  // namespace glassgate::kernels::GG_ISA
