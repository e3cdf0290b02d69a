// The passes for numbers of S whose products take operands of O.
#pragma once

#include "backward.hpp"
#include "table.hpp"

namespace glassgate::kernels::GG_ISA {

template <class S, class O> void run_forward(const Forward<S>& call) { ForwardPass<S, O>(call).run(); }
template <class S, class O> void run_backward(const Backward<S>& call) { BackwardPass<S, O>(call).run(); }
template <class S, class O> std::size_t packed_elements(Cell cell, Index I, Index H) {
    return static_cast<std::size_t>(PackedWeights<S, O>(cell, I, H).size());
}
template <class S, class O>
void pack_all(Cell cell, Index I, Index H, const S* w_ih, const S* w_hh, const S* b_ih, const S* b_hh, S* packed) {
    PackedWeights<S, O>(cell, I, H).pack(w_ih, w_hh, b_ih, b_hh, packed, 0, 1);
}
template <class S, class O> std::size_t sums_elements(Cell cell, Index H) {
    return static_cast<std::size_t>(ForwardPass<S, O>::sums_size(cell, H));
}
template <class S, class O> void run_inputs(const Forward<S>& call, S* sums) { ForwardPass<S, O>(call).run_inputs(sums); }

template <class S, class O>
constexpr Passes<S> passes{run_forward<S, O>, run_backward<S, O>, packed_elements<S, O>, pack_all<S, O>,
                           sums_elements<S, O>, run_inputs<S, O>};

}  // namespace glassgate::kernels::GG_ISA
