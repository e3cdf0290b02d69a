// Chooses the instruction set once, when it is first needed.
#include "cpu.hpp"
#include "table.hpp"
#include "team.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace glassgate::kernels {

namespace {

struct Choice {
    const char* name;
    const Table* table;
    const Passes<float>* bf16;
    bool available;
    bool preferred = true;  // to those below it
    void (*backward_by_parts)(const Backward<float>&) = nullptr;  // where that is faster
};

Choice choose() {
    const Choice all[] = {
#if defined(GLASSGATE_X86_BF16)
        {"amx", &avx512::table, &amx::bf16_passes, has_avx512() && has_matrix_tiles(), true,
         amx::backward_by_parts},
        // Intel's instruction for it does half of what two of float32 do in its time (docs/performance-log.md).
        {"avx512bf16", &avx512::table, &avx512bf16::bf16_passes, has_avx512() && __builtin_cpu_supports("avx512bf16"),
         !__builtin_cpu_is("intel")},
#endif
#if defined(GLASSGATE_X86)
        {"avx512", &avx512::table, &avx512::bf16_passes, has_avx512()},
        {"avx2", &avx2::table, &avx2::bf16_passes, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
        {"baseline", &baseline::table, &baseline::bf16_passes, true},
    };
    const char* wanted = std::getenv("GLASSGATE_ISA");
    std::string names;
    for (const Choice& one : all) {
        if (wanted == nullptr || *wanted == '\0') {
            if (one.available && one.preferred) return one;
            continue;
        }
        if (std::strcmp(wanted, one.name) == 0) {
            if (one.available) return one;
            throw std::runtime_error("GLASSGATE_ISA=" + std::string(wanted) + ": this machine lacks it; leave the "
                                     "variable unset for the best that it has");
        }
        names = one.name + (names.empty() ? "" : ", " + names);
    }
    throw std::runtime_error("GLASSGATE_ISA: must be one of " + names + ", got " + std::string(wanted));
}

const Choice& chosen() {
    static const Choice choice = choose();
    return choice;
}

template <class S> const Entries<S>& entries();
template <> const Entries<float>& entries<float>() { return chosen().table->single; }
template <> const Entries<double>& entries<double>() { return chosen().table->twice; }

template <class S> const Passes<S>& passes(bool) { return entries<S>().passes; }
template <> const Passes<float>& passes<float>(bool bf16) { return bf16 ? *chosen().bf16 : chosen().table->single.passes; }

void run_backward(const Backward<double>& call) { passes<double>(false).backward(call); }
void run_backward(const Backward<float>& call) {
    // Below, a product is too small for what it takes to part its numbers. Outputs and gradients on inputs are the same bits.
    const bool worth_parts = call.sizes.H >= 64 && call.sizes.T * call.sizes.N >= 32;
    if (!call.bf16 && worth_parts && chosen().backward_by_parts != nullptr) chosen().backward_by_parts(call);
    else passes<float>(call.bf16).backward(call);
}

}  // namespace

const char* isa() { return chosen().name; }

template <class S> void forward(const Forward<S>& call) {
    const Sizes& z = call.sizes;
    const std::size_t states = static_cast<std::size_t>(z.T * z.N * z.H) * sizeof(S);
    expect_writes(call.hidden, states);
    expect_writes(call.state, states);
    expect_writes(call.gates, states * static_cast<std::size_t>(gate_count(call.cell)));
    passes<S>(call.bf16).forward(call);
}
template <class S> void backward(const Backward<S>& call) {
    const Sizes& z = call.sizes;
    const std::size_t unit = static_cast<std::size_t>(gate_count(call.cell) * z.H) * sizeof(S);
    expect_writes(call.d_x, static_cast<std::size_t>(z.T * z.N * z.I) * sizeof(S));
    expect_writes(call.d_w_ih, unit * static_cast<std::size_t>(z.I));
    expect_writes(call.d_w_hh, unit * static_cast<std::size_t>(z.H));
    run_backward(call);
}
template <class S> std::size_t packed_size(Cell cell, std::int64_t I, std::int64_t H, bool bf16) {
    return passes<S>(bf16).packed_size(cell, I, H);
}
template <class S>
void pack(Cell cell, std::int64_t I, std::int64_t H, const S* w_ih, const S* w_hh, const S* b_ih, const S* b_hh, bool bf16,
          S* packed) {
    passes<S>(bf16).pack(cell, I, H, w_ih, w_hh, b_ih, b_hh, packed);
}
template <class S> std::size_t input_sums_size(Cell cell, std::int64_t H, bool bf16) {
    return passes<S>(bf16).input_sums_size(cell, H);
}
template <class S> void input_sums(const Forward<S>& call, S* sums) { passes<S>(call.bf16).input_sums(call, sums); }
template <class S> void sigmoid(const S* in, S* out, std::int64_t count) { entries<S>().sigmoid(in, out, count); }
template <class S> void tanh(const S* in, S* out, std::int64_t count) { entries<S>().tanh(in, out, count); }
template <class S> void softmax_loss(const SoftmaxLoss<S>& call) { entries<S>().softmax_loss(call); }
void rounded_softmax_loss(const RoundedSoftmaxLoss& call) { chosen().table->rounded_softmax_loss(call); }
template <class S> void adam_step(const AdamStep<S>& call) { entries<S>().adam_step(call); }
template <class S> void adam_catch_up(const AdamCatchUp<S>& call) { entries<S>().adam_catch_up(call); }
template <class S> void add_rows(const AddRows<S>& call) { entries<S>().add_rows(call); }
template <class S>
double sum_of_squares(std::int64_t rows, std::int64_t width, const std::int64_t* which, const S* values) {
    return entries<S>().sum_of_squares(rows, width, which, values);
}

#define GLASSGATE_INSTANCES(S)                                                                                        \
    template void forward<S>(const Forward<S>&);                                                                      \
    template void backward<S>(const Backward<S>&);                                                                    \
    template std::size_t packed_size<S>(Cell, std::int64_t, std::int64_t, bool);                                      \
    template void pack<S>(Cell, std::int64_t, std::int64_t, const S*, const S*, const S*, const S*, bool, S*);        \
    template std::size_t input_sums_size<S>(Cell, std::int64_t, bool);                                                \
    template void input_sums<S>(const Forward<S>&, S*);                                                               \
    template void sigmoid<S>(const S*, S*, std::int64_t);                                                             \
    template void tanh<S>(const S*, S*, std::int64_t);                                                                \
    template void softmax_loss<S>(const SoftmaxLoss<S>&);                                                             \
    template void adam_step<S>(const AdamStep<S>&);                                                                   \
    template void adam_catch_up<S>(const AdamCatchUp<S>&);                                                            \
    template void add_rows<S>(const AddRows<S>&);                                                                     \
    template double sum_of_squares<S>(std::int64_t, std::int64_t, const std::int64_t*, const S*);
GLASSGATE_INSTANCES(float)
GLASSGATE_INSTANCES(double)

}  // namespace glassgate::kernels
