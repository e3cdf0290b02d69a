// The kernels for one instruction set: compiled once for each, with GG_ISA naming it.
#include "table.hpp"

#include "backward.hpp"
#include "output_passes.hpp"

namespace glassgate::kernels::GG_ISA {

namespace {

template <class S> void run_forward(const Forward<S>& call) { ForwardPass<S>(call).run(); }
template <class S> void run_backward(const Backward<S>& call) { BackwardPass<S>(call).run(); }
template <class S> std::size_t packed_elements(Cell cell, Index I, Index H) {
    return static_cast<std::size_t>(PackedWeights<S>(cell, I, H).size());
}
template <class S>
void pack_all(Cell cell, Index I, Index H, const S* w_ih, const S* w_hh, const S* b_ih, const S* b_hh, bool bf16,
              S* packed) {
    PackedWeights<S>(cell, I, H).pack(w_ih, w_hh, b_ih, b_hh, bf16, packed, 0, 1);
}
template <class S> void all_sigmoid(const S* in, S* out, Index count) {
    for (Index i = 0; i < count; i += width<S>) {
        const Index now = min(width<S>, count - i);
        store(out + i, sigmoid<S>(load(in + i, now)), now);
    }
}
template <class S> void all_tanh(const S* in, S* out, Index count) {
    for (Index i = 0; i < count; i += width<S>) {
        const Index now = min(width<S>, count - i);
        store(out + i, tanh<S>(load(in + i, now)), now);
    }
}

template <class S> constexpr Entries<S> entries{run_forward<S>,  run_backward<S>, packed_elements<S>,
                                                pack_all<S>,     all_sigmoid<S>,  all_tanh<S>,
                                                softmax_loss<S>, adam_step<S>,    adam_catch_up<S>,
                                                add_rows<S>,     sum_of_squares<S>};

}  // namespace

extern const Table table;
const Table table{entries<float>, entries<double>};

}  // namespace glassgate::kernels::GG_ISA
