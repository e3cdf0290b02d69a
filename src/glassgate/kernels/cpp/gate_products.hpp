// The products of a forward pass with its weights, for one thread: packed, or packed panel by panel where each is met once.
#pragma once

#include "packed.hpp"
#include "product.hpp"

namespace glassgate::kernels::GG_ISA {

template <class S, class O> class GateProducts {
  public:
    // `packed` may be null: then `block` has room for a panel's part.
    GateProducts(const Forward<S>& call, const PackedWeights<S, O>& layout, const S* packed, O* block)
        : c_(call), layout_(layout), packed_(packed), block_(block) {}

    // The biases of panel p; `own` has room for them.
    const S* bias(Index p, S* own) const {
        if (packed_ != nullptr) return packed_ + layout_.bias_at(p);
        layout_.pack_bias(c_.b_ih, c_.b_hh, p, own);
        return own;
    }

    // Adds to `to` the product of some rows and panel p of the input weights, of the hidden weights, or of U_n.
    template <int NV> void input(Index p, Index rows, const O* const* a, S* to) const {
        if (packed_ != nullptr) return product<O, NV>(rows, layout_.I, a, operands() + layout_.input_at(p), to);
        product<O, NV>(rows, layout_.I, a, unpacked<NV>(c_.w_ih, p, layout_.I), to);
    }
    template <int NV> void hidden(Index p, Index rows, const O* const* a, S* to) const {
        if (packed_ != nullptr) return product<O, NV>(rows, layout_.H, a, operands() + layout_.hidden_at(p), to);
        product<O, NV>(rows, layout_.H, a, unpacked<NV>(c_.w_hh, p, layout_.H), to);
    }
    void candidate(Index p, Index rows, const O* const* a, S* to) const {
        switch (layout_.candidate.template vectors<S>(p)) {
            case 1: return candidates<1>(p, rows, a, to);
            case 2: return candidates<2>(p, rows, a, to);
            case 3: return candidates<3>(p, rows, a, to);
            default: return candidates<4>(p, rows, a, to);
        }
    }

  private:
    static constexpr Index W = width<S>;

    const O* operands() const { return layout_.operands(packed_); }
    template <int NV> Unpacked<O, NV> unpacked(const S* weight, Index p, Index depth) const {
        const Index count = min(W, layout_.H - p * W);
        return {weight + p * W * depth, depth, layout_.H, {count, count, count, count}, depth, block_};
    }
    template <int NV> void candidates(Index p, Index rows, const O* const* a, S* to) const {
        const Columns& cut = layout_.candidate;
        const Index H = layout_.H;
        if (packed_ != nullptr) return product<O, NV>(rows, H, a, operands() + layout_.candidate_at(p), to);
        Unpacked<O, NV> source{c_.w_hh + (2 * H + cut.first(p)) * H, H, W, {}, H, block_};
        for (int v = 0; v < NV; ++v) source.count[v] = min(W, cut.count(p) - v * W);
        product<O, NV>(rows, H, a, source, to);
    }

    const Forward<S>& c_;
    const PackedWeights<S, O>& layout_;
    const S* const packed_;
    O* const block_;
};

}  // namespace glassgate::kernels::GG_ISA
