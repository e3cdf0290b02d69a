// Backward passes: the steps of a chunk in reverse, then what they give to d_x, the weights and the biases.
#pragma once

#include "weights.hpp"

namespace glassgate::kernels::GG_ISA {

// `M`: what the products of the weights' gradients take, where that is not O.
template <class S, class O, class M = O> class BackwardPass {
  public:
    explicit BackwardPass(const Backward<S>& call)
        : c_(call), T(call.sizes.T), N(call.sizes.N), I(call.sizes.I), H(call.sizes.H), G(gate_count(call.cell)),
          parts_(gradient_parts(call.cell)), stride_(row_stride<S>(H)), part_(deep<O>(H)),
          row_(row_stride<O>(parts_ * part_)), plan_(plan_for(call.sizes, G, sizeof(O), 0)),
          chunk_(chunk_steps(call.sizes, backward_rows(call.sizes, sizeof(O)))), hidden_cut_(columns_of<S>(H, call.sizes.N < 4 ? 4 : 2)),
          input_cut_(columns_of<S>(I, 2)), gradients_(call, schedule_, chunk_, stride_, plan_.threads) {}

    void run() {
        Cutter count(nullptr);
        cut(count);
        Cutter real(scratch(count.used()));
        cut(real);
        schedule_.set(c_.sizes, c_.lengths, c_.resets, c_.reverse);
        run_team(plan_.threads, [](void* self, const Team& team) { static_cast<BackwardPass*>(self)->work(team); }, this);
    }

  private:
    static constexpr Index W = width<S>;

    void cut(Cutter& cutter) {
        schedule_.cut(cutter, N);
        w_hh_ = cutter.take<O>(hidden_cut_.template packed<S>(G * part_));
        w_ih_ = cutter.take<O>(c_.d_x == nullptr ? 0 : input_cut_.template packed<S>(G * part_));
        pre_ = cutter.take<O>(2 * chunk_ * N * row_);
        reset_h_ = cutter.take<S>(c_.cell == Cell::gru_before ? chunk_ * N * stride_ : 0);
        carry_ = cutter.take<S>(N * stride_);
        tiles_ = cutter.take<S>(plan_.threads * tile_size<S>);
        active_ = cutter.take<const O*>(chunk_ * N);
        to_ = cutter.take<S*>(chunk_ * N);
        gradients_.cut(cutter);
    }

    // Gradients on the pre-activations of row `row` in the s-th step. Two chunks alternate: the first step of one is
    // still needed when the next one begins.
    O* pre_row(Index s, Index row) const { return pre_ + ((s / chunk_ % 2) * chunk_ * N + s % chunk_ * N + row) * row_; }

    void work(const Team& team) {
        const Division mine{plan_.by_rows && team.size > 1, team.rank, team.size};
        [[maybe_unused]] const TileRegisters<M> registers;
        S* tile = tiles_ + team.rank * tile_size<S>;
        pack(team);
        prepare(team);
        team.wait();
        for (Index s1 = T; s1 > 0;) {
            const Index s0 = (s1 - 1) / chunk_ * chunk_;
            for (Index s = s1 - 1; s >= s0; --s) step(s, mine, team, tile);
            if (mine.by_rows) team.wait();
            chunk_gradients(s0, s1, team, tile);
            s1 = s0;
        }
        if (T > 0) step(-1, mine, team, tile);
    }

    void pack(const Team& team) {
        pack_columns(c_.w_hh, hidden_cut_, w_hh_, team);
        if (c_.d_x != nullptr) pack_columns(c_.w_ih, input_cut_, w_ih_, team);
    }
    // Each gate's rows by themselves, so that a product may begin and end with any of them.
    void pack_columns(const S* weights, const Columns& cut, O* to, const Team& team) const {
        const Range mine = share(cut.panels(), team.rank, team.size);
        for (Index p = mine.begin; p < mine.end; ++p) {
            O* panel = to + cut.offset(p, G * part_);
            for (Index g = 0; g < G; ++g, panel += part_ * cut.template vectors<S>(p) * W) {
                const auto row = [&](Index k) { return weights + (g * H + k) * cut.columns; };
                pack_column_panel(row, H, cut, p, panel);
            }
        }
    }

    static GG_INLINE Vec<S> load_or_zero(const S* from, Index at, Index count) {
        return from == nullptr ? Vec<S>{} : load(from + at, count);
    }

    void prepare(const Team& team) {
        gradients_.clear(team);
        // A product reads whole units, of which H fills a part.
        if (part_ > H) zero_share(pre_, 2 * chunk_ * N * row_, team);
        const bool lstm = c_.cell == Cell::lstm;
        const Range rows = share(N, team.rank, team.size);
        for (Index row = rows.begin; row < rows.end; ++row) {
            const Index n = schedule_.sequence(row);
            const S* carried = lstm ? c_.d_c_n : c_.d_h_n;
            for (Index u = 0; u < H; u += W) {
                const Index count = min(W, H - u);
                store(carry_ + row * stride_ + u, load_or_zero(carried, n * H + u, count), count);
                if (schedule_.length(row) > 0) continue;
                if (c_.d_h0 != nullptr) store(c_.d_h0 + n * H + u, load_or_zero(c_.d_h_n, n * H + u, count), count);
                if (lstm && c_.d_c0 != nullptr)
                    store(c_.d_c0 + n * H + u, load_or_zero(c_.d_c_n, n * H + u, count), count);
            }
            if (c_.d_x == nullptr) continue;
            for (Index t = schedule_.length(row); t < T; ++t) zero(c_.d_x + (t * N + n) * I, I);
        }
    }

    // One step back. Rows that are active at it get the gradients on their pre-activations; rows whose first step came just
    // after it (with s = -1: all that are left) hand theirs to d_h0 and d_c0.
    void step(Index s, const Division& mine, const Team& team, S* tile) {
        const Index t = s < 0 ? (c_.reverse ? T : -1) : schedule_.time(s), next = schedule_.after(t);
        const Index here = s < 0 ? 0 : schedule_.active(t);
        const Index there = next < 0 || next >= T ? 0 : schedule_.active(next);
        const Index block = max_rows<O, 2>;
        const bool back = plan_.back(s);
        mine.tiles(hidden_cut_.panels(), max(here, there), block, back, [&](Index p, Index first, Index last) {
            hidden_tile(s, t, p, first, last, there, mine, tile);
        });
        if (!mine.by_rows) team.wait();
        if (c_.cell != Cell::gru_before || s < 0) return;
        mine.tiles(hidden_cut_.panels(), here, block, back, [&](Index p, Index first, Index last) {
            reset_tile(s, t, p, first, last, mine, tile);
        });
        if (!mine.by_rows) team.wait();
    }

    // d_h of some rows and units: tile = the gradients of the step after, times U.
    void hidden_tile(Index s, Index t, Index p, Index first, Index last, Index there, const Division& mine, S* tile) {
        const Index rows = last - first, next = schedule_.after(t);
        const int vectors = hidden_cut_.template vectors<S>(p);
        zero(tile, rows * vectors * W);
        // Rows from `there` on were not active in the step after, and are the last ones.
        Index products = 0;
        const O* from[tile_rows];
        while (products < rows && mine.row(first + products) < there) {
            from[products] = pre_row(s + 1, mine.row(first + products));
            ++products;
        }
        const Index depth = (c_.cell == Cell::gru_before ? 2 : G) * part_;
        product<O>(vectors, products, depth, from, w_hh_ + hidden_cut_.offset(p, G * part_), tile);
        for (Index i = first; i < last; ++i) {
            const Index row = mine.row(i), n = schedule_.sequence(row);
            const bool here = s >= 0 && schedule_.is_active(row, t), ends = i - first >= products;
            const bool cleared = !ends && schedule_.reset(row, next);
            for (int v = 0; v < vectors; ++v) {
                const Index unit = hidden_cut_.first(p) + v * W, count = min(W, H - unit);
                Vec<S> dh = load(tile + ((i - first) * vectors + v) * W);
                if (cleared) dh = Vec<S>{};
                if (c_.cell == Cell::lstm) {
                    if (ends) dh = load_or_zero(c_.d_h_n, n * H + unit, count);
                } else {
                    dh += load(carry_ + row * stride_ + unit, count);
                }
                if (!here) {
                    leave(row, n, unit, count, dh);
                    continue;
                }
                dh += load_or_zero(c_.d_hidden, (t * N + n) * H + unit, count);
                if (c_.cell == Cell::lstm) lstm_unit(s, t, row, n, unit, count, dh);
                else gru_unit(s, t, row, n, unit, count, dh);
            }
        }
    }

    GG_INLINE void leave(Index row, Index n, Index unit, Index count, Vec<S> dh) {
        if (c_.d_h0 != nullptr) store(c_.d_h0 + n * H + unit, dh, count);
        if (c_.cell == Cell::lstm && c_.d_c0 != nullptr)
            store(c_.d_c0 + n * H + unit, load(carry_ + row * stride_ + unit, count), count);
    }
    GG_INLINE Vec<S> old_state(Index row, Index t, const S* all, const S* initial, Index unit, Index count) const {
        const S* from = schedule_.previous(row, t, all, initial, H);
        return from == nullptr ? Vec<S>{} : load(from + unit, count);
    }

    GG_INLINE void lstm_unit(Index s, Index t, Index row, Index n, Index unit, Index count, Vec<S> dh) {
        const S* gates = c_.gates + (t * N + n) * 4 * H + unit;
        const Index extra = (t * N + n) * 4 * H + unit;
        const Vec<S> input = load(gates, count), forget = load(gates + H, count);
        const Vec<S> candidate = load(gates + 2 * H, count), output = load(gates + 3 * H, count);
        const Vec<S> shown = tanh<S>(load(c_.state + (t * N + n) * H + unit, count));
        const Vec<S> old = old_state(row, t, c_.state, c_.c0, unit, count);
        S* carry = carry_ + row * stride_ + unit;
        const S one = S(1);

        const Vec<S> into = dh * output;
        Vec<S> dc = load(carry, count) + load_or_zero(c_.d_state, (t * N + n) * H + unit, count);
        dc = dc + fmadd<S>(-into * shown, shown, into);
        Vec<S> di = dc * candidate, df = dc * old, dg = dc * input, d_o = dh * shown;
        if (c_.d_gates != nullptr) {
            di += load(c_.d_gates + extra, count);
            df += load(c_.d_gates + extra + H, count);
            dg += load(c_.d_gates + extra + 2 * H, count);
            d_o += load(c_.d_gates + extra + 3 * H, count);
        }
        O* pre = pre_row(s, row) + unit;
        store(pre, di * input * (one - input), count);
        store(pre + part_, df * forget * (one - forget), count);
        store(pre + 2 * part_, fmadd<S>(-dg * candidate, candidate, dg), count);
        store(pre + 3 * part_, d_o * output * (one - output), count);
        store(carry, schedule_.reset(row, t) ? Vec<S>{} : dc * forget, count);
    }

    // Both GRUs down to n and z; "after" also finishes r, "before" needs d_n of all units for that.
    GG_INLINE void gru_unit(Index s, Index t, Index row, Index n, Index unit, Index count, Vec<S> dh) {
        const Index at = (t * N + n) * 3 * H + unit;
        const Vec<S> keep = load(c_.gates + at + H, count), candidate = load(c_.gates + at + 2 * H, count);
        const Vec<S> old = old_state(row, t, c_.hidden, c_.h0, unit, count);
        const S one = S(1);
        const Vec<S> dn = dh * (one - keep) + load_or_zero(c_.d_gates, at + 2 * H, count);
        const Vec<S> dz = dh * (old - candidate) + load_or_zero(c_.d_gates, at + H, count);
        const Vec<S> dn_pre = fmadd<S>(-dn * candidate, candidate, dn);
        O* pre = pre_row(s, row) + unit;
        store(pre + part_, dz * keep * (one - keep), count);
        store(carry_ + row * stride_ + unit, schedule_.reset(row, t) ? Vec<S>{} : dh * keep, count);
        if (c_.cell == Cell::gru_before) return store(pre + 2 * part_, dn_pre, count);
        const Vec<S> reset = load(c_.gates + at, count), m = load(c_.state + (t * N + n) * H + unit, count);
        const Vec<S> dm = dn_pre * reset + load_or_zero(c_.d_state, (t * N + n) * H + unit, count);
        const Vec<S> dr = dn_pre * m + load_or_zero(c_.d_gates, at, count);
        store(pre, dr * reset * (one - reset), count);
        store(pre + 2 * part_, dm, count);
        store(pre + 3 * part_, dn_pre, count);
    }

    // GRU before: d(r h) = d_n U_n, hence d_r and one more share of d_h.
    void reset_tile(Index s, Index t, Index p, Index first, Index last, const Division& mine, S* tile) {
        const int vectors = hidden_cut_.template vectors<S>(p);
        const O* from[tile_rows];
        for (Index i = first; i < last; ++i) from[i - first] = pre_row(s, mine.row(i)) + 2 * part_;
        zero(tile, (last - first) * vectors * W);
        const O* candidate = w_hh_ + hidden_cut_.offset(p, G * part_) + 2 * part_ * vectors * W;
        product<O>(vectors, last - first, part_, from, candidate, tile);
        for (Index i = first; i < last; ++i) {
            const Index row = mine.row(i), n = schedule_.sequence(row);
            for (int v = 0; v < vectors; ++v) {
                const Index unit = hidden_cut_.first(p) + v * W, count = min(W, H - unit);
                const Index at = (t * N + n) * 3 * H + unit;
                const Vec<S> d = load(tile + ((i - first) * vectors + v) * W), reset = load(c_.gates + at, count);
                const Vec<S> old = old_state(row, t, c_.hidden, c_.h0, unit, count);
                const Vec<S> dr = d * old + load_or_zero(c_.d_gates, at, count);
                store(pre_row(s, row) + unit, dr * reset * (S(1) - reset), count);
                store(reset_h_ + (s % chunk_ * N + row) * stride_ + unit, reset * old, count);
                S* carry = carry_ + row * stride_ + unit;
                if (!schedule_.reset(row, t)) store(carry, fmadd<S>(d, reset, load(carry, count)), count);
            }
        }
    }

    // ---- What a chunk of steps gives to d_x, the weights and the biases ----------------------------------------------

    void chunk_gradients(Index s0, Index s1, const Team& team, S* tile) {
        Index count = 0;  // every thread counts; what it writes down is its own share
        const Range all = share(s1 - s0, team.rank, team.size);
        for (Index s = s0; s < s1; ++s) {
            const Index t = schedule_.time(s), active = schedule_.active(t);
            const bool mine = s - s0 >= all.begin && s - s0 < all.end;
            for (Index row = 0; mine && row < active; ++row) {
                active_[count + row] = pre_row(s, row);
                if (c_.d_x != nullptr) to_[count + row] = c_.d_x + (t * N + schedule_.sequence(row)) * I;
            }
            count += active;
        }
        team.wait();
        if (c_.d_x != nullptr) input_gradient(count, team, tile);
        gradients_.add(s0, s1, active_, count, reset_h_, team);
        team.wait();
    }

    void input_gradient(Index count, const Team& team, S* tile) {
        const Division division{false, team.rank, team.size};
        const Index skip = c_.cell == Cell::gru_after ? H : 0;  // the input side does not see m
        division.tiles(input_cut_.panels(), count, max_rows<O, 2>, false, [&](Index p, Index first, Index last) {
            const int vectors = input_cut_.template vectors<S>(p);
            const Index rows = last - first, lanes = vectors * W;
            const O* panel = w_ih_ + input_cut_.offset(p, G * part_);
            zero(tile, rows * lanes);
            if (skip == 0) {
                product<O>(vectors, rows, G * part_, active_ + first, panel, tile);
            } else {
                const O* candidate[tile_rows];
                for (Index r = 0; r < rows; ++r) candidate[r] = active_[first + r] + 3 * part_;
                product<O>(vectors, rows, 2 * part_, active_ + first, panel, tile);
                product<O>(vectors, rows, part_, candidate, panel + 2 * part_ * lanes, tile);
            }
            for (Index r = 0; r < rows; ++r) {
                S* to = to_[first + r] + input_cut_.first(p);
                for (int v = 0; v < vectors; ++v)
                    store(to + v * W, load(tile + r * lanes + v * W), min(W, input_cut_.count(p) - v * W));
            }
        });
    }

    const Backward<S>& c_;
    const Index T, N, I, H;
    const int G;
    const Index parts_, stride_;
    const Index part_, row_;  // H as a depth; between rows of gradients
    const Plan plan_;
    const Index chunk_;
    const Columns hidden_cut_, input_cut_;  // of d_h and d_x
    Schedule schedule_;
    WeightGradients<S, O, M> gradients_;
    O *w_hh_ = nullptr, *w_ih_ = nullptr;  // U and W, packed by columns
    O* pre_ = nullptr;
    S* reset_h_ = nullptr;
    S* carry_ = nullptr;  // LSTM: d_c that flows back, GRU: what of d_h does not pass through U
    S* tiles_ = nullptr;
    const O** active_ = nullptr;  // the gradients of the chunk's active rows, and where their d_x goes
    S** to_ = nullptr;
};

}  // namespace glassgate::kernels::GG_ISA
