// What training needs beside the recurrence, for Python: softmax and loss, the optimiser, rows. See bindings.cpp.
#include "buffers.hpp"
#include "output.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace glassgate::kernels;
using glassgate::Buffers;
using Index = std::int64_t;

namespace {

void check_rows(const std::int64_t* which, Index rows, Index most) {
    for (Index r = 0; which != nullptr && r < rows; ++r)
        if (which[r] < 0 || which[r] >= most) throw nb::value_error("which: names a row that is not there");
}

template <class S>
void run_softmax_loss(Index rows, Index entries, Index stride, nb::handle x, nb::handle bias, nb::handle targets,
                      double scale, nb::handle loss) {
    Buffers b;
    SoftmaxLoss<S> k{rows, entries, stride, nullptr, nullptr, nullptr, static_cast<S>(scale), nullptr};
    k.x = b.out<S>(x, rows == 0 ? 0 : (rows - 1) * stride + entries, "x", true);
    k.bias = b.in<S>(bias, entries, "bias");
    k.targets = b.in<std::int64_t>(targets, rows, "targets", true);
    k.loss = b.out<S>(loss, rows, "loss", true);
    check_rows(k.targets, rows, entries);
    nb::gil_scoped_release unlocked;
    softmax_loss(k);
}

void run_rounded_softmax_loss(Index rows, Index entries, nb::handle x, nb::handle bias, nb::handle targets, double scale,
                              nb::handle loss, nb::handle d_bias) {
    Buffers b;
    RoundedSoftmaxLoss k{};
    k.rows = rows;
    k.entries = entries;
    k.x = b.out<std::uint16_t>(x, rows * entries, "x", true);
    k.bias = b.in<float>(bias, entries, "bias");
    k.targets = b.in<std::int64_t>(targets, rows, "targets", true);
    k.scale = static_cast<float>(scale);
    k.loss = b.out<float>(loss, rows, "loss", true);
    k.d_bias = b.out<float>(d_bias, entries, "d_bias");
    check_rows(k.targets, rows, entries);
    nb::gil_scoped_release unlocked;
    rounded_softmax_loss(k);
}

template <class S>
void open_rows(AdamRows<S>& k, Buffers& b, Index height, Index width, nb::handle which, Index rows, nb::handle p,
               nb::handle m, nb::handle v) {
    k.rows = rows;
    k.width = width;
    k.which = b.in<std::int64_t>(which, rows, "which");
    k.p = b.out<S>(p, height * width, "p", true);
    k.m = b.out<S>(m, height * width, "m", true);
    k.v = b.out<S>(v, height * width, "v", true);
}

template <class S>
void run_adam_step(Index height, Index width, nb::handle which, Index rows, nb::handle p, nb::handle m, nb::handle v,
                   nb::handle g, double beta1, double beta2, double epsilon, double clip, double shrink, double step,
                   double correction) {
    Buffers b;
    AdamStep<S> k{};
    open_rows<S>(k, b, height, width, which, rows, p, m, v);
    k.g = b.in<S>(g, height * width, "g", true);
    k.beta1 = beta1;
    k.beta2 = beta2;
    k.epsilon = epsilon;
    k.clip = clip;
    k.shrink = shrink;
    k.step = step;
    k.correction = correction;
    check_rows(k.which, rows, height);
    nb::gil_scoped_release unlocked;
    adam_step(k);
}

template <class S>
void run_adam_catch_up(Index height, Index width, nb::handle which, Index rows, nb::handle p, nb::handle m, nb::handle v,
                       nb::handle stamp, Index now, nb::handle shrink, nb::handle move, nb::handle power1,
                       nb::handle power2, double epsilon) {
    Buffers b;
    AdamCatchUp<S> k{};
    open_rows<S>(k, b, height, width, which, rows, p, m, v);
    k.stamp = b.out<std::int64_t>(stamp, height, "stamp", true);
    k.now = now;
    k.shrink = b.in<double>(shrink, now + 1, "shrink", true);
    k.move = b.in<double>(move, now + 1, "move", true);
    k.power1 = b.in<double>(power1, now + 1, "power1", true);
    k.power2 = b.in<double>(power2, now + 1, "power2", true);
    k.epsilon = epsilon;
    check_rows(k.which, rows, height);
    check_rows(k.stamp, height, now + 1);
    nb::gil_scoped_release unlocked;
    adam_catch_up(k);
}

template <class S>
void run_add_rows(Index height, Index width, Index count, nb::handle which, nb::handle source, nb::handle target,
                  nb::handle in_play) {
    Buffers b;
    AddRows<S> k{count, width, nullptr, nullptr, nullptr, nullptr};
    k.which = b.in<std::int64_t>(which, count, "which", true);
    k.source = b.in<S>(source, count * width, "source", true);
    k.target = b.out<S>(target, height * width, "target", true);
    k.in_play = b.out<std::uint8_t>(in_play, height, "in_play", true);
    check_rows(k.which, count, height);
    nb::gil_scoped_release unlocked;
    add_rows(k);
}

template <class S> double run_sum_of_squares(Index height, Index width, nb::handle which, Index rows, nb::handle values) {
    Buffers b;
    const std::int64_t* at = b.in<std::int64_t>(which, rows, "which");
    const S* from = b.in<S>(values, height * width, "values", true);
    check_rows(at, rows, height);
    nb::gil_scoped_release unlocked;
    return sum_of_squares<S>(rows, width, at, from);
}

}  // namespace

void add_output_functions(nb::module_& m) {
    m.def(
        "softmax_loss",
        [](bool twice, Index rows, Index entries, Index stride, nb::handle x, nb::handle bias, nb::handle targets,
           double scale, nb::handle loss) {
            auto run = twice ? run_softmax_loss<double> : run_softmax_loss<float>;
            run(rows, entries, stride, x, bias, targets, scale, loss);
        },
        "twice"_a, "rows"_a, "entries"_a, "stride"_a, "x"_a, "bias"_a.none(), "targets"_a, "scale"_a,
        "loss"_a);

    m.def("rounded_softmax_loss", run_rounded_softmax_loss, "rows"_a, "entries"_a, "x"_a, "bias"_a.none(), "targets"_a,
          "scale"_a, "loss"_a, "d_bias"_a.none());

    m.def(
        "adam_step",
        [](bool twice, Index height, Index width, nb::handle which, Index rows, nb::handle p, nb::handle m, nb::handle v,
           nb::handle g, double beta1, double beta2, double epsilon, double clip, double shrink, double step,
           double correction) {
            auto run = twice ? run_adam_step<double> : run_adam_step<float>;
            run(height, width, which, rows, p, m, v, g, beta1, beta2, epsilon, clip, shrink, step, correction);
        },
        "twice"_a, "height"_a, "width"_a, "which"_a.none(), "rows"_a, "p"_a, "m"_a, "v"_a, "g"_a, "beta1"_a, "beta2"_a,
        "epsilon"_a, "clip"_a, "shrink"_a, "step"_a, "correction"_a);

    m.def(
        "adam_catch_up",
        [](bool twice, Index height, Index width, nb::handle which, Index rows, nb::handle p, nb::handle m, nb::handle v,
           nb::handle stamp, Index now, nb::handle shrink, nb::handle move, nb::handle power1, nb::handle power2,
           double epsilon) {
            auto run = twice ? run_adam_catch_up<double> : run_adam_catch_up<float>;
            run(height, width, which, rows, p, m, v, stamp, now, shrink, move, power1, power2, epsilon);
        },
        "twice"_a, "height"_a, "width"_a, "which"_a.none(), "rows"_a, "p"_a, "m"_a, "v"_a, "stamp"_a, "now"_a, "shrink"_a,
        "move"_a, "power1"_a, "power2"_a, "epsilon"_a);

    m.def(
        "add_rows",
        [](bool twice, Index height, Index width, Index count, nb::handle which, nb::handle source, nb::handle target,
           nb::handle in_play) {
            (twice ? run_add_rows<double> : run_add_rows<float>)(height, width, count, which, source, target, in_play);
        },
        "twice"_a, "height"_a, "width"_a, "count"_a, "which"_a, "source"_a, "target"_a, "in_play"_a);

    m.def(
        "sum_of_squares",
        [](bool twice, Index height, Index width, nb::handle which, Index rows, nb::handle values) {
            return (twice ? run_sum_of_squares<double> : run_sum_of_squares<float>)(height, width, which, rows, values);
        },
        "twice"_a, "height"_a, "width"_a, "which"_a.none(), "rows"_a, "values"_a);
}
