// The kernels for one instruction set: compiled once for each, with GG_ISA naming it.
#include "table.hpp"

#include "output_passes.hpp"
#include "passes.hpp"

namespace glassgate::kernels::GG_ISA {

namespace {

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

template <class S>
constexpr Entries<S> entries{passes<S, S>,  all_sigmoid<S>,   all_tanh<S>, softmax_loss<S>,
                             adam_step<S>, adam_catch_up<S>, add_rows<S>, sum_of_squares<S>};

}  // namespace

extern const Table table;
const Table table{entries<float>, entries<double>, rounded_softmax_loss};

}  // namespace glassgate::kernels::GG_ISA
