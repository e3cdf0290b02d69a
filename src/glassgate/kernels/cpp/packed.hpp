// The weights of a model in the order in which the kernels read them.
#pragma once

#include "kernels.hpp"
#include "panel.hpp"

namespace glassgate::kernels::GG_ISA {

// Where the packed weights of a model lie: biases, then the input panels, then the hidden panels.
template <class S> struct PackedWeights {
    PackedWeights(Cell cell, Index I, Index H)
        : cell(cell), I(I), H(H), gates(gate_count(cell)), panels(ceil_div(H, width<S>)),
          candidate(columns_of<S>(H)) {}

    Cell cell;
    Index I, H;
    int gates;          // G
    Index panels;       // panels of `width` units
    Columns candidate;  // GRU with the reset before the product: how U_n is cut; its r and z share panels of two gates

    int hidden_gates() const { return cell == Cell::gru_before ? 2 : gates; }
    static constexpr int bias_rows = 4;  // one for each gate; GRU after: r, z, n of the input side, n of the hidden side

    Index bias_at(Index p) const { return p * bias_rows * width<S>; }
    Index input_at(Index p) const { return panels * bias_rows * width<S> + p * I * gates * width<S>; }
    Index hidden_at(Index p) const { return input_at(panels) + p * H * hidden_gates() * width<S>; }
    Index candidate_at(Index p) const { return hidden_at(panels) + candidate.offset(p, H); }
    Index size() const {
        return hidden_at(panels) + (cell == Cell::gru_before ? candidate.packed<S>(H) : 0);
    }

    // Thread `rank` of `size` packs its share.
    void pack(const S* w_ih, const S* w_hh, const S* b_ih, const S* b_hh, bool bf16, S* to, Index rank,
              Index size) const {
        const Range mine = share(panels, rank, size);
        for (Index p = mine.begin; p < mine.end; ++p) {
            pack_bias(b_ih, b_hh, p, to + bias_at(p));
            pack_gate_panel(w_ih, gates, H, I, p, to + input_at(p));
            pack_gate_panel(w_hh, hidden_gates(), H, H, p, to + hidden_at(p));
            if (bf16) {
                round_all(to + input_at(p), input_at(p + 1) - input_at(p));
                round_all(to + hidden_at(p), hidden_at(p + 1) - hidden_at(p));
            }
        }
        if (cell != Cell::gru_before) return;
        const Range wide = share(candidate.panels(), rank, size);
        for (Index p = wide.begin; p < wide.end; ++p) {
            S* panel = to + candidate_at(p);
            pack_transposed_panel(w_hh + 2 * H * H, H, candidate, p, panel);
            if (bf16) round_all(panel, round_up(candidate.count(p), width<S>) * H);
        }
    }

    void pack_bias(const S* b_ih, const S* b_hh, Index p, S* to) const {
        constexpr Index W = width<S>;
        const bool apart = cell == Cell::gru_after;  // r (U_n h + b_hn) keeps the candidate's two biases apart
        for (Index row = 0; row < bias_rows; ++row)
            for (Index lane = 0; lane < W; ++lane) {
                const Index unit = p * W + lane;
                S sum = S(0);
                if (unit < H && row < gates) {
                    const bool hidden_side = !(apart && row == 2);
                    if (b_ih != nullptr) sum += b_ih[row * H + unit];
                    if (b_hh != nullptr && hidden_side) sum += b_hh[row * H + unit];
                } else if (unit < H && apart && b_hh != nullptr) {
                    sum = b_hh[2 * H + unit];
                }
                to[row * W + lane] = sum;
            }
    }
};

}  // namespace glassgate::kernels::GG_ISA
