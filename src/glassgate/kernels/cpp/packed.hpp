// The weights of a model in the order in which the kernels read them.
#pragma once

#include "kernels.hpp"
#include "panel.hpp"

namespace glassgate::kernels::GG_ISA {

// Where the packed weights of a model lie: biases, then as operands the input panels, then the hidden panels.
template <class S, class O> struct PackedWeights {
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
    Index input_at(Index p) const { return p * deep<O>(I) * gates * width<S>; }
    Index hidden_at(Index p) const { return input_at(panels) + p * deep<O>(H) * hidden_gates() * width<S>; }
    Index candidate_at(Index p) const { return hidden_at(panels) + candidate.offset(p, deep<O>(H)); }

    O* operands(S* packed) const { return reinterpret_cast<O*>(packed + bias_at(panels)); }
    const O* operands(const S* packed) const { return reinterpret_cast<const O*>(packed + bias_at(panels)); }
    Index size() const {  // in S
        const Index behind = cell == Cell::gru_before ? candidate.packed<S>(deep<O>(H)) : 0;
        return bias_at(panels) + ceil_div((hidden_at(panels) + behind) * static_cast<Index>(sizeof(O)), sizeof(S));
    }

    // Thread `rank` of `size` packs its share.
    void pack(const S* w_ih, const S* w_hh, const S* b_ih, const S* b_hh, S* packed, Index rank, Index size) const {
        const Range mine = share(panels, rank, size);
        O* to = operands(packed);
        for (Index p = mine.begin; p < mine.end; ++p) {
            pack_bias(b_ih, b_hh, p, packed + bias_at(p));
            pack_gate_panel(w_ih, gates, H, I, p, to + input_at(p));
            pack_gate_panel(w_hh, hidden_gates(), H, H, p, to + hidden_at(p));
        }
        if (cell != Cell::gru_before) return;
        const Range wide = share(candidate.panels(), rank, size);
        for (Index p = wide.begin; p < wide.end; ++p)
            pack_transposed_panel(w_hh + 2 * H * H, H, candidate, p, to + candidate_at(p));
    }

    void pack_bias(const S* b_ih, const S* b_hh, Index p, S* to) const {
        constexpr Index W = width<S>;
        const bool apart = cell == Cell::gru_after;  // r (U_n h + b_hn) keeps the candidate's two biases apart
        const Index unit = p * W, count = min(W, H - unit);
        const auto part = [&](const S* bias, Index gate) {
            return bias == nullptr ? Vec<S>{} : load(bias + gate * H + unit, count);
        };
        for (Index row = 0; row < gates; ++row)
            store(to + row * W, part(b_ih, row) + (apart && row == 2 ? Vec<S>{} : part(b_hh, row)));
        if (gates < bias_rows) store(to + 3 * W, apart ? part(b_hh, 2) : Vec<S>{});
    }
};

}  // namespace glassgate::kernels::GG_ISA
