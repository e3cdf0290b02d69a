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
};

}  // namespace glassgate::kernels
