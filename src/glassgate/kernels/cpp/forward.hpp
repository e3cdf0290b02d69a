// Forward passes: the input product of a chunk of steps, then the chunk's steps, chunk after chunk.
#pragma once

#include "gate_products.hpp"
#include "results.hpp"
#include "sequence.hpp"

#include <type_traits>

namespace glassgate::kernels::GG_ISA {

template <class S, class O> class ForwardPass {
  public:
    explicit ForwardPass(const Forward<S>& call)
        : c_(call), T(call.sizes.T), N(call.sizes.N), I(call.sizes.I), H(call.sizes.H),
          weights_(call.cell, I, H), G(weights_.gates), stride_(row_stride<S>(H)), operand_stride_(row_stride<O>(H)),
          once_(call.packed == nullptr && T == 1 && N <= tile_rows),
          results_(call), plan_(plan()), joined_(T == 1 && N <= max_rows<O, 4> && plan_.turns),
          chunk_(chunk_steps(call.sizes, forward_rows(call.sizes, G, sizeof(S)))) {}

    void run() {
        Cutter count(nullptr);
        cut(count);
        Cutter real(scratch(count.used()));
        cut(real);
        schedule_.set(c_.sizes, c_.lengths, c_.resets, c_.reverse);
        run_team(plan_.threads, [](void* self, const Team& team) { static_cast<ForwardPass*>(self)->work(team); }, this);
    }

    // The sums of a single step's inputs, [N][panels][G][width], instead of the step.
    void run_inputs(S* sums) {
        sums_out_ = sums;
        run();
    }
    static Index sums_size(Cell cell, Index H) { return ceil_div(H, W) * gate_count(cell) * W; }

  private:
    using Products = GateProducts<S, O>;
    static constexpr Index W = width<S>;
    static constexpr bool copies = !std::is_same_v<O, S>;  // whether x must become an operand first

    // Who packs a panel as he needs it shares the work by panels.
    Plan plan() const {
        const Plan plan = plan_for(c_.sizes, G, sizeof(O), c_.threads);
        return {plan.threads, plan.by_rows && !once_, plan.turns};
    }

    void cut(Cutter& cutter) {
        schedule_.cut(cutter, N);
        packed_ = c_.packed != nullptr || once_ ? nullptr : cutter.take<S>(weights_.size());
        blocks_ = cutter.take<O>(once_ ? plan_.threads * block_size<O> : 0);
        for (O*& h : h_) h = cutter.take<O>(N * operand_stride_);
        carry_ = cutter.take<S>(N * stride_);
        reset_h_ = cutter.take<O>(c_.cell == Cell::gru_before ? N * operand_stride_ : 0);
        before_ = cutter.take<S>(weights_.panels * before_panel());
        inputs_ = cutter.take<O>(copies ? plan_.threads * chunk_ * N * deep<O>(I) : 0);
        tiles_ = cutter.take<S>(plan_.threads * tile_size<S>);
        from_ = cutter.take<const O*>(plan_.threads * chunk_ * N);
        begins_ = cutter.take<Index>(plan_.threads * chunk_);
    }

    // Pre-activations of a chunk of steps lie panel by panel: [rows][G][width], the rows of all its steps in turn, so that
    // a product adds to them where they lie. Threads that keep their own rows keep them in their own part.
    Index before_panel() const { return (plan_.by_rows ? plan_.threads : 1) * part_rows() * G * W; }
    Index part_rows() const { return chunk_ * (plan_.by_rows ? ceil_div(N, plan_.threads) : N); }
    S* before(Index p, const Division& mine, Index index) const {
        return before_ + p * before_panel() + ((mine.by_rows ? mine.rank * part_rows() : 0) + index) * G * W;
    }
    // Where the rows of the s-th step begin among those of its chunk.
    Index& begins(const Division& mine, Index s) const { return begins_[mine.rank * chunk_ + s % chunk_]; }

    void work(const Team& team) {
        const Division mine{plan_.by_rows && team.size > 1, team.rank, team.size};
        [[maybe_unused]] const TileRegisters<O> registers;
        S* tile = tiles_ + team.rank * tile_size<S>;
        const S* packed = packed_ != nullptr ? packed_ : c_.packed;
        if (packed_ != nullptr) weights_.pack(c_.w_ih, c_.w_hh, c_.b_ih, c_.b_hh, packed_, team.rank, team.size);
        const Products products(c_, weights_, packed, blocks_ + mine.rank * block_size<O>);
        prepare(share(N, team.rank, team.size));
        team.wait();
        for (Index s = 0; s < T; ++s) {
            if (s % chunk_ == 0) {
                const Index rows = gather_inputs(s, min(s + chunk_, T), mine);
                if (sums_out_ != nullptr) return write_sums(rows, products, mine);
                if (!joined_) {
                    input_product(rows, products, mine);
                    if (!mine.by_rows) team.wait();
                }
            }
            step(s, products, mine, team, tile);
            if (!mine.by_rows) team.wait();
        }
        end_streams();
    }

    // Initial states, final states of sequences without a step, zeros for the steps that are not active.
    void prepare(Range rows) {
        for (Index row = rows.begin; row < rows.end; ++row) {
            const Index n = schedule_.sequence(row), length = schedule_.length(row);
            const bool clear = length > 0 && schedule_.reset(row, schedule_.first_time(row));
            const S* h0 = c_.h0 == nullptr ? nullptr : c_.h0 + n * H;
            const S* c0 = c_.c0 == nullptr ? nullptr : c_.c0 + n * H;
            const bool lstm = c_.cell == Cell::lstm;
            for (O* part : h_) fill_up(part + row * operand_stride_);
            if (reset_h_ != nullptr) fill_up(reset_h_ + row * operand_stride_);
            for (Index u = 0; u < H; u += W) {
                const Index count = min(W, H - u);
                const Vec<S> h = h0 == nullptr ? Vec<S>{} : load(h0 + u, count);
                const Vec<S> c = c0 == nullptr ? Vec<S>{} : load(c0 + u, count);
                const Vec<S> carried = clear ? Vec<S>{} : lstm ? c : h;
                for (O* part : h_) store(part + row * operand_stride_ + u, clear ? Vec<S>{} : h, count);
                store(carry_ + row * stride_ + u, carried, count);
                if (length > 0) continue;
                store(c_.h_n + n * H + u, h, count);
                if (lstm) store(c_.c_n + n * H + u, c, count);
            }
            for (Index t = length; t < T; ++t) {
                const Index at = t * N + n;
                zero(c_.hidden + at * H, H);
                if (c_.state != nullptr) zero(c_.state + at * H, H);
                if (c_.gates != nullptr) zero(c_.gates + at * G * H, G * H);
            }
        }
    }

    // A product reads whole units.
    void fill_up(O* row) const {
        for (Index k = H; k < deep<O>(H); ++k) row[k] = O{};
    }

    // Where the inputs of steps s0 to s1 lie, as operands; how many rows those are.
    Index gather_inputs(Index s0, Index s1, const Division& mine) {
        const O** from = from_ + mine.rank * chunk_ * N;
        O* copy = inputs_ + mine.rank * chunk_ * N * deep<O>(I);
        Index count = 0;
        for (Index s = s0; s < s1; ++s) {
            const Index t = schedule_.time(s), rows = mine.own_rows(schedule_.active(t));
            begins(mine, s) = count;
            if (c_.sums != nullptr) return rows;  // of a single step
            for (Index i = 0; i < rows; ++i, ++count) {
                const S* x = c_.x + (t * N + schedule_.sequence(mine.row(i))) * I;
                if constexpr (copies) {
                    for (Index k = 0; k < deep<O>(I); k += W)
                        store(copy + k, k < I ? load(x + k, min(W, I - k)) : Vec<S>{}, min(W, deep<O>(I) - k));
                    from[count] = copy;
                    copy += deep<O>(I);
                } else {
                    from[count] = x;
                }
            }
        }
        return count;
    }

    // Pre-activations of a chunk of steps, bias + W x, for this thread's rows or panels.
    void input_product(Index rows, const Products& products, const Division& mine) {
        input_tiles(rows, mine, [&](Index p, Index first, Index last) { input_tile(p, first, last, products, mine); });
    }
    // Calls work for the tiles of this thread's `rows` gathered inputs.
    template <class Work> void input_tiles(Index rows, const Division& mine, Work&& work) const {
        const Division tiles = mine.by_rows ? Division{false, 0, 1} : mine;
        tiles.tiles(weights_.panels, rows, G == 4 ? max_rows<O, 4> : max_rows<O, 3>, false, work);
    }

    void input_tile(Index p, Index first, Index last, const Products& products, const Division& mine) {
        S* sums = before(p, mine, first);
        if (c_.sums != nullptr) {
            for (Index i = first; i < last; ++i, sums += G * W) copy_gates(c_.sums + sums_at(p, i, mine), sums);
            return;
        }
        S own[PackedWeights<S, O>::bias_rows * W];
        const S* bias = products.bias(p, own);
        for (Index r = 0; r < last - first; ++r) copy_gates(bias, sums + r * G * W);
        const O* const* from = from_ + mine.rank * chunk_ * N + first;
        if (G == 4) products.template input<4>(p, last - first, from, sums);
        else products.template input<3>(p, last - first, from, sums);
    }

    // The sums of a single step's inputs: [N][panels][G][width].
    Index sums_at(Index p, Index i, const Division& mine) const {
        return (schedule_.sequence(mine.row(i)) * weights_.panels + p) * G * W;
    }
    void write_sums(Index rows, const Products& products, const Division& mine) {
        input_tiles(rows, mine, [&](Index p, Index first, Index last) {
            input_tile(p, first, last, products, mine);
            const S* sums = before(p, mine, first);
            for (Index i = first; i < last; ++i, sums += G * W) copy_gates(sums, sums_out_ + sums_at(p, i, mine));
        });
    }
    // What one row has of a panel, [G][width].
    GG_INLINE void copy_gates(const S* from, S* to) const {
        for (Index g = 0; g < G; ++g) store(to + g * W, load(from + g * W));
    }

    void step(Index s, const Products& products, const Division& mine, const Team& team, S* tile) {
        if (c_.edit_rows == nullptr) step_with<false>(s, products, mine, team, tile);
        else step_with<true>(s, products, mine, team, tile);
    }
    template <bool editing> void step_with(Index s, const Products& products, const Division& mine, const Team& team, S* tile) {
        const Index t = schedule_.time(s), active = schedule_.active(t);
        const bool back = plan_.back(s + (c_.back ? 1 : 0));
        switch (c_.cell) {
            case Cell::lstm:
                return mine.tiles(weights_.panels, active, max_rows<O, 4>, back, [&](Index p, Index first, Index last) {
                    lstm_tile<editing>(s, p, first, last, products, mine);
                });
            case Cell::gru_after:
                return mine.tiles(weights_.panels, active, max_rows<O, 3>, back, [&](Index p, Index first, Index last) {
                    gru_after_tile<editing>(s, p, first, last, products, mine, tile);
                });
            case Cell::gru_before:
                mine.tiles(weights_.panels, active, max_rows<O, 2>, back, [&](Index p, Index first, Index last) {
                    reset_update_tile<editing>(s, p, first, last, products, mine, tile);
                });
                if (!mine.by_rows) team.wait();  // r * h of all units enters each unit's candidate
                return mine.tiles(weights_.candidate.panels(), active, max_rows<O, 4>, back,
                                  [&](Index p, Index first, Index last) {
                                      candidate_tile<editing>(s, p, first, last, products, mine, tile);
                                  });
        }
    }

    void rows_of(const O* matrix, Index first, Index last, const Division& mine, const O** rows) const {
        for (Index i = first; i < last; ++i) rows[i - first] = matrix + mine.row(i) * operand_stride_;
    }

    // What the end of a row's step needs, whichever cell it is.
    struct Row {
        Index row, at;       // place in the order; t * N + n
        bool clear, is_last;  // the next step resets; there is no next step
        S* gates;             // where the activated gates are wanted, or null
        const std::int32_t* edits;  // which row of edits each gate and state has, or null
    };
    Row row_of(Index s, Index i, const Division& mine) const {
        const Index row = mine.row(i), t = schedule_.time(s), next = schedule_.after(t);
        const bool goes_on = next < T && schedule_.is_active(row, next);
        const Index at = t * N + schedule_.sequence(row);
        return {row, at, goes_on && schedule_.reset(row, next), !goes_on,
                c_.gates == nullptr ? nullptr : c_.gates + at * G * H,
                c_.edit_rows == nullptr ? nullptr : c_.edit_rows + at * (G + state_count(c_.cell))};
    }

    // What edits make of some units of a gate (counted in the order of the gates) or of a state (behind them). A call
    // without edits has code of its own: even a branch that is never taken costs small layers a twentieth of their time.
    template <bool editing>
    GG_INLINE Vec<S> edited(const Row& r, int which, Index unit, Index count, Vec<S> value) const {
        if (!editing || r.edits[which] < 0) return value;
        const S* row = c_.edits + r.edits[which] * 4 * H + unit;
        const Vec<S> low = load(row + 2 * H, count), high = load(row + 3 * H, count);
        value = fmadd<S>(value, load(row, count), load(row + H, count));
        value = value < low ? low : value;
        return value > high ? high : value;
    }

    // The new hidden state of some units, and what is carried beside it (LSTM: c, GRU: h itself).
    GG_INLINE void finish(Index s, const Row& r, Index unit, Index count, Vec<S> h, Vec<S> carried) {
        store(c_.hidden + r.at * H + unit, h, count);
        store(h_[(s + 1) % 2] + r.row * operand_stride_ + unit, r.clear ? Vec<S>{} : h, count);
        store(carry_ + r.row * stride_ + unit, r.clear ? Vec<S>{} : carried, count);
        if (!r.is_last) return;
        const Index n = r.at % N;
        store(c_.h_n + n * H + unit, h, count);
        if (c_.cell == Cell::lstm) store(c_.c_n + n * H + unit, carried, count);
    }

    // Before a tile's product: the lines that the end of its step will write.
    GG_INLINE void expect(Index s, Index first, Index last, Index unit, Range gates, const Division& mine) const {
        if (!results_.large()) return;
        const Index t = schedule_.time(s);
        for (Index i = first; i < last; ++i) results_.expect(t * N + schedule_.sequence(mine.row(i)), unit, gates);
    }

    template <bool editing>
    void lstm_tile(Index s, Index p, Index first, Index last, const Products& products, const Division& mine) {
        const O* rows[tile_rows];
        rows_of(h_[s % 2], first, last, mine, rows);
        const Index unit = p * W, count = min(W, H - unit);
        if (joined_) input_tile(p, first, last, products, mine);
        S* sum = before(p, mine, begins(mine, s) + first);
        expect(s, first, last, unit, {0, 4}, mine);
        products.template hidden<4>(p, last - first, rows, sum);
        for (Index i = first; i < last; ++i, sum += 4 * W) {
            const Row r = row_of(s, i, mine);
            const auto edit = [&](int which, Vec<S> value) { return edited<editing>(r, which, unit, count, value); };
            const Vec<S> input = edit(0, sigmoid<S>(load(sum))), forget = edit(1, sigmoid<S>(load(sum + W)));
            const Vec<S> candidate = edit(2, tanh<S>(load(sum + 2 * W)));
            const Vec<S> output = edit(3, sigmoid<S>(load(sum + 3 * W)));
            const Vec<S> old = load(carry_ + r.row * stride_ + unit, count);
            const Vec<S> cell = edit(4, fmadd<S>(forget, old, input * candidate));
            if (r.gates != nullptr) {
                results_.save(r.gates + unit, input, count);
                results_.save(r.gates + H + unit, forget, count);
                results_.save(r.gates + 2 * H + unit, candidate, count);
                results_.save(r.gates + 3 * H + unit, output, count);
            }
            if (c_.state != nullptr) results_.save(c_.state + r.at * H + unit, cell, count);
            finish(s, r, unit, count, edit(5, output * tanh<S>(cell)), cell);
        }
    }

    template <bool editing>
    void gru_after_tile(Index s, Index p, Index first, Index last, const Products& products, const Division& mine, S* tile) {
        const O* rows[tile_rows];
        rows_of(h_[s % 2], first, last, mine, rows);
        const Index unit = p * W, count = min(W, H - unit);
        S own[PackedWeights<S, O>::bias_rows * W];
        const Vec<S> bias = load(products.bias(p, own) + 3 * W);
        if (joined_) input_tile(p, first, last, products, mine);
        const S* input = before(p, mine, begins(mine, s) + first);
        for (Index i = 0; i < last - first; ++i) {
            S* sum = tile + i * 3 * W;
            store(sum, load(input + i * 3 * W));
            store(sum + W, load(input + i * 3 * W + W));
            store(sum + 2 * W, bias);
        }
        expect(s, first, last, unit, {0, 3}, mine);
        products.template hidden<3>(p, last - first, rows, tile);
        const S* sum = tile;
        for (Index i = first; i < last; ++i, sum += 3 * W, input += 3 * W) {
            const Row r = row_of(s, i, mine);
            const auto edit = [&](int which, Vec<S> value) { return edited<editing>(r, which, unit, count, value); };
            const Vec<S> reset = edit(0, sigmoid<S>(load(sum))), keep = edit(1, sigmoid<S>(load(sum + W)));
            const Vec<S> m = load(sum + 2 * W);
            const Vec<S> candidate = edit(2, tanh<S>(fmadd<S>(reset, m, load(input + 2 * W))));
            const Vec<S> old = load(carry_ + r.row * stride_ + unit, count);
            const Vec<S> h = edit(3, fmadd<S>(keep, old - candidate, candidate));
            if (r.gates != nullptr) {
                results_.save(r.gates + unit, reset, count);
                results_.save(r.gates + H + unit, keep, count);
                results_.save(r.gates + 2 * H + unit, candidate, count);
            }
            if (c_.state != nullptr) results_.save(c_.state + r.at * H + unit, m, count);
            finish(s, r, unit, count, h, h);
        }
    }

    template <bool editing>
    void reset_update_tile(Index s, Index p, Index first, Index last, const Products& products, const Division& mine, S* tile) {
        const O* rows[tile_rows];
        rows_of(h_[s % 2], first, last, mine, rows);
        const Index unit = p * W, count = min(W, H - unit);
        if (joined_) input_tile(p, first, last, products, mine);
        S* input = before(p, mine, begins(mine, s) + first);
        for (Index i = 0; i < last - first; ++i)
            for (Index g = 0; g < 2; ++g) store(tile + (i * 2 + g) * W, load(input + (i * 3 + g) * W));
        expect(s, first, last, unit, {0, 2}, mine);
        products.template hidden<2>(p, last - first, rows, tile);
        const S* sum = tile;
        for (Index i = first; i < last; ++i, sum += 2 * W, input += 3 * W) {
            const Row r = row_of(s, i, mine);
            const Vec<S> reset = edited<editing>(r, 0, unit, count, sigmoid<S>(load(sum)));
            const Vec<S> keep = edited<editing>(r, 1, unit, count, sigmoid<S>(load(sum + W)));
            store(input + W, keep);  // its candidate_tile needs it
            if (r.gates != nullptr) {
                results_.save(r.gates + unit, reset, count);
                results_.save(r.gates + H + unit, keep, count);
            }
            const Vec<S> old = load(carry_ + r.row * stride_ + unit, count);
            store(reset_h_ + r.row * operand_stride_ + unit, reset * old, count);
        }
    }

    template <bool editing>
    void candidate_tile(Index s, Index p, Index first, Index last, const Products& products, const Division& mine, S* tile) {
        const O* rows[tile_rows];
        rows_of(reset_h_, first, last, mine, rows);
        const Columns& cut = weights_.candidate;
        const Index unit0 = cut.first(p);
        const int vectors = cut.vectors<S>(p);
        const S* input[max_vectors];
        for (int v = 0; v < vectors; ++v) input[v] = before(unit0 / W + v, mine, begins(mine, s) + first);
        for (Index i = 0; i < last - first; ++i)
            for (int v = 0; v < vectors; ++v) store(tile + (i * vectors + v) * W, load(input[v] + (i * 3 + 2) * W));
        for (int v = 0; v < vectors; ++v) expect(s, first, last, unit0 + v * W, {2, 3}, mine);
        products.candidate(p, last - first, rows, tile);
        for (Index i = first; i < last; ++i) {
            const Row r = row_of(s, i, mine);
            for (int v = 0; v < vectors; ++v) {
                const Index unit = unit0 + v * W, count = min(W, H - unit);
                const auto edit = [&](int which, Vec<S> value) { return edited<editing>(r, which, unit, count, value); };
                const Vec<S> candidate = edit(2, tanh<S>(load(tile + ((i - first) * vectors + v) * W)));
                const Vec<S> keep = load(input[v] + ((i - first) * 3 + 1) * W);
                const Vec<S> old = load(carry_ + r.row * stride_ + unit, count);
                const Vec<S> h = edit(3, fmadd<S>(keep, old - candidate, candidate));
                if (r.gates != nullptr) results_.save(r.gates + 2 * H + unit, candidate, count);
                finish(s, r, unit, count, h, h);
            }
        }
    }

    const Forward<S>& c_;
    const Index T, N, I, H;
    const PackedWeights<S, O> weights_;
    const int G;
    const Index stride_, operand_stride_;  // between rows of the states, and of what of them enters products
    const bool once_;  // each weight is met once: it is packed where it is needed, and not kept
    const Results<S> results_;
    const Plan plan_;
    const bool joined_;  // a single step that waits for its weights: it reads those of the inputs and its own in one direction
    const Index chunk_;
    Schedule schedule_;
    S* packed_ = nullptr;
    O* blocks_ = nullptr;
    O* h_[2] = {};  // the hidden state that enters a step and the one that leaves it
    S* carry_ = nullptr;
    O* reset_h_ = nullptr;
    S* before_ = nullptr;
    S* sums_out_ = nullptr;
    O* inputs_ = nullptr;  // as operands, where x is not
    S* tiles_ = nullptr;
    const O** from_ = nullptr;
    Index* begins_ = nullptr;
};

}  // namespace glassgate::kernels::GG_ISA
