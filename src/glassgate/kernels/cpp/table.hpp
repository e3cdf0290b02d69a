// What each instruction set provides.
#pragma once

#include "kernels.hpp"
#include "output.hpp"

namespace glassgate::kernels {

template <class S> struct Passes {
    void (*forward)(const Forward<S>&);
    void (*backward)(const Backward<S>&);
    std::size_t (*packed_size)(Cell, std::int64_t, std::int64_t);
    void (*pack)(Cell, std::int64_t, std::int64_t, const S*, const S*, const S*, const S*, S*);
    std::size_t (*input_sums_size)(Cell, std::int64_t);
    void (*input_sums)(const Forward<S>&, S*);
};

template <class S> struct Entries {
    Passes<S> passes;
    void (*sigmoid)(const S*, S*, std::int64_t);
    void (*tanh)(const S*, S*, std::int64_t);
    void (*softmax_loss)(const SoftmaxLoss<S>&);
    void (*adam_step)(const AdamStep<S>&);
    void (*adam_catch_up)(const AdamCatchUp<S>&);
    void (*add_rows)(const AddRows<S>&);
    double (*sum_of_squares)(std::int64_t, std::int64_t, const std::int64_t*, const S*);
};

struct Table {
    Entries<float> single;
    Entries<double> twice;
    void (*rounded_softmax_loss)(const RoundedSoftmaxLoss&);
};

// The sets that are compiled: cpu.hpp and the compiler tell which of them the machine has.
#define GLASSGATE_SET(name)                 \
    namespace name {                        \
    extern const Table table;               \
    extern const Passes<float> bf16_passes; \
    }
GLASSGATE_SET(baseline)
#if defined(GLASSGATE_X86)
GLASSGATE_SET(avx2)
GLASSGATE_SET(avx512)
#endif
#if defined(GLASSGATE_X86_BF16)  // like avx512 in all else
namespace avx512bf16 { extern const Passes<float> bf16_passes; }
namespace amx {
extern const Passes<float> bf16_passes;
void backward_by_parts(const Backward<float>& call);  // the weights' gradients by bfloat16, as exact (parts.hpp)
}
#endif

}  // namespace glassgate::kernels
