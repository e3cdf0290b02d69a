// The kernels for Python: sizes and buffers in, nothing else. Shapes and types are checked in kernels/__init__.py.
//
// A buffer is None (a null pointer), an int (an address, as torch's data_ptr() gives it; the caller answers for what lies
// there) or any object with a contiguous buffer of exactly the size that the sizes ask for.
#include "kernels.hpp"
#include "output.hpp"
#include "team.hpp"

#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace glassgate::kernels;
using Index = std::int64_t;

namespace {

class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }
    template <class S> S* open(nb::handle object, Index count, const char* name, bool writable) {
        if (object.is_none()) return nullptr;
        if (PyLong_Check(object.ptr())) {
            void* address = PyLong_AsVoidPtr(object.ptr());
            if (address == nullptr && PyErr_Occurred()) throw nb::python_error();
            return static_cast<S*>(address);
        }
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) != 0)
            throw nb::python_error();
        held_ = true;
        if (view_.len != count * static_cast<Index>(sizeof(S)))
            throw nb::value_error((std::string(name) + ": needs " + std::to_string(count * sizeof(S)) + " bytes, got " +
                                   std::to_string(view_.len)).c_str());
        return static_cast<S*>(view_.buf);
    }

  private:
    Py_buffer view_{};
    bool held_ = false;
};

// Opens the buffers of one call and keeps them open until it is over.
class Buffers {
  public:
    template <class S> const S* in(nb::handle object, Index count, const char* name, bool required = false) {
        return get<S>(object, count, name, false, required);
    }
    template <class S> S* out(nb::handle object, Index count, const char* name, bool required = false) {
        return get<S>(object, count, name, true, required);
    }

  private:
    template <class S> S* get(nb::handle object, Index count, const char* name, bool writable, bool required) {
        S* data = buffers_[used_++].open<S>(object, count, name, writable);
        if (data == nullptr && required && count > 0)
            throw nb::value_error((std::string(name) + ": must not be None").c_str());
        return data;
    }
    Buffer buffers_[32];
    int used_ = 0;
};

Sizes sizes_of(Index T, Index N, Index I, Index H) {
    constexpr Index most = Index(1) << 40;
    for (Index size : {T, N, I, H})
        if (size < 0 || size > most) throw nb::value_error("T, N, I, H: each must be from 0 to 2^40");
    // What the largest buffer takes must be countable.
    const auto fits = [](Index a, Index b, Index c) {
        return static_cast<long double>(a) * static_cast<long double>(b) * static_cast<long double>(c) < 1e17L;
    };
    if (!fits(T, N, 4 * H + I) || !fits(4 * H, I + H, 1)) throw nb::value_error("T, N, I, H: the arrays would be too large");
    return {T, N, I, H};
}

void check_lengths(const std::int64_t* lengths, const Sizes& z) {
    for (Index n = 0; lengths != nullptr && n < z.N; ++n)
        if (lengths[n] < 0 || lengths[n] > z.T)
            throw nb::value_error(("lengths[" + std::to_string(n) + "]: must be from 0 to " + std::to_string(z.T) + ", got " +
                                   std::to_string(lengths[n])).c_str());
}

void check_edit_rows(const std::int32_t* rows, Index count, Index edits) {
    for (Index k = 0; rows != nullptr && k < count; ++k)
        if (rows[k] < -1 || rows[k] >= edits) throw nb::value_error("edit_rows: names a row that is not there");
}

Cell cell_of(int cell) {
    if (cell < 0 || cell > 2) throw nb::value_error("cell: must be 0 (LSTM), 1 (GRU, reset after) or 2 (GRU, reset before)");
    return static_cast<Cell>(cell);
}

// A model's weights, packed once.
class Packed {
  public:
    Packed(int cell, bool twice, Index I, Index H, nb::handle w_ih, nb::handle w_hh, nb::handle b_ih, nb::handle b_hh,
           bool bf16)
        : cell_(cell_of(cell)), twice_(twice), bf16_(bf16), z_(sizes_of(1, 1, I, H)) {
        if (twice) fill(doubles(), w_ih, w_hh, b_ih, b_hh);
        else fill(floats(), w_ih, w_hh, b_ih, b_hh);
    }
    void expect(Cell cell, bool twice, Index I, Index H, bool bf16) const {
        if (cell != cell_ || twice != twice_ || I != z_.I || H != z_.H || bf16 != bf16_)
            throw nb::value_error("packed: was made for another cell, type, size or precision");
    }
    const void* data() const { return data_.get(); }

    // h (and c) one step on, in place, N sequences.
    void step(Index N, nb::handle x, nb::handle h, nb::handle c, nb::handle gates) const {
        if (twice_) one_step<double>(N, x, h, c, gates);
        else one_step<float>(N, x, h, c, gates);
    }

  private:
    static double* doubles() { return nullptr; }
    static float* floats() { return nullptr; }
    template <class S> void fill(S*, nb::handle w_ih, nb::handle w_hh, nb::handle b_ih, nb::handle b_hh) {
        Buffers b;
        const Index G = gate_count(cell_), I = z_.I, H = z_.H;
        const S* wi = b.in<S>(w_ih, G * H * I, "w_ih", true);
        const S* wh = b.in<S>(w_hh, G * H * H, "w_hh", true);
        const S* bi = b.in<S>(b_ih, G * H, "b_ih");
        const S* bh = b.in<S>(b_hh, G * H, "b_hh");
        const std::size_t bytes = (packed_size<S>(cell_, I, H) * sizeof(S) + 127) / 64 * 64;
        data_.reset(std::aligned_alloc(64, bytes));
        if (data_ == nullptr) throw std::bad_alloc();
        pack<S>(cell_, I, H, wi, wh, bi, bh, bf16_, static_cast<S*>(data_.get()));
    }
    template <class S> void one_step(Index N, nb::handle x, nb::handle h, nb::handle c, nb::handle gates) const {
        Buffers b;
        Forward<S> f{};
        f.cell = cell_;
        f.sizes = sizes_of(1, N, z_.I, z_.H);
        const Index H = z_.H;
        f.packed = static_cast<const S*>(data_.get());
        f.round_bf16 = bf16_;
        f.x = b.in<S>(x, N * z_.I, "x", true);
        f.h_n = b.out<S>(h, N * H, "h", true);
        f.hidden = f.h_n;
        f.h0 = f.h_n;
        f.c_n = b.out<S>(c, N * H, "c", cell_ == Cell::lstm);
        f.c0 = f.c_n;
        f.gates = b.out<S>(gates, N * gate_count(cell_) * H, "gates");
        nb::gil_scoped_release unlocked;
        forward(f);
    }

    struct Free {
        void operator()(void* data) const { std::free(data); }
    };
    Cell cell_;
    bool twice_, bf16_;
    Sizes z_;
    std::unique_ptr<void, Free> data_;
};

template <class S>
void run_forward(Cell cell, Sizes z, const Packed* packed, nb::handle x, nb::handle w_ih, nb::handle w_hh, nb::handle b_ih,
                 nb::handle b_hh, nb::handle h0, nb::handle c0, nb::handle lengths, nb::handle resets, bool reverse,
                 bool bf16, nb::handle hidden, nb::handle state, nb::handle gates, nb::handle h_n, nb::handle c_n,
                 nb::handle edit_rows, nb::handle edits, Index edit_count) {
    Buffers b;
    const Index TN = z.T * z.N, NH = z.N * z.H, GH = gate_count(cell) * z.H;
    const bool lstm = cell == Cell::lstm;
    Forward<S> f{};
    f.cell = cell;
    f.sizes = z;
    f.x = b.in<S>(x, TN * z.I, "x", true);
    if (packed != nullptr) {
        f.packed = static_cast<const S*>(packed->data());
    } else {
        f.w_ih = b.in<S>(w_ih, GH * z.I, "w_ih", true);
        f.w_hh = b.in<S>(w_hh, GH * z.H, "w_hh", true);
        f.b_ih = b.in<S>(b_ih, GH, "b_ih");
        f.b_hh = b.in<S>(b_hh, GH, "b_hh");
    }
    f.h0 = b.in<S>(h0, NH, "h0");
    f.c0 = b.in<S>(c0, NH, "c0");
    f.lengths = b.in<std::int64_t>(lengths, z.N, "lengths");
    f.resets = b.in<std::uint8_t>(resets, TN, "resets");
    f.reverse = reverse;
    f.round_bf16 = bf16;
    f.hidden = b.out<S>(hidden, TN * z.H, "hidden", true);
    f.state = b.out<S>(state, TN * z.H, "state");
    f.gates = b.out<S>(gates, TN * GH, "gates");
    f.h_n = b.out<S>(h_n, NH, "h_n", true);
    f.c_n = b.out<S>(c_n, NH, "c_n", lstm);
    const Index kinds = gate_count(cell) + state_count(cell);
    if (edit_count < 0 || edit_count > (Index(1) << 30)) throw nb::value_error("edit_count: must be from 0 to 2^30");
    f.edit_rows = b.in<std::int32_t>(edit_rows, TN * kinds, "edit_rows");
    f.edits = b.in<S>(edits, edit_count * 4 * z.H, "edits", f.edit_rows != nullptr);
    check_edit_rows(f.edit_rows, TN * kinds, edit_count);
    check_lengths(f.lengths, z);
    nb::gil_scoped_release unlocked;
    forward(f);
}

template <class S>
void run_backward(Cell cell, Sizes z, nb::handle x, nb::handle w_ih, nb::handle w_hh, nb::handle h0, nb::handle c0,
                  nb::handle lengths, nb::handle resets, bool reverse, bool bf16, nb::handle hidden, nb::handle state,
                  nb::handle gates, nb::handle d_hidden, nb::handle d_state, nb::handle d_gates, nb::handle d_h_n,
                  nb::handle d_c_n, nb::handle d_x, nb::handle d_w_ih, nb::handle d_w_hh, nb::handle d_b_ih,
                  nb::handle d_b_hh, nb::handle d_h0, nb::handle d_c0) {
    Buffers b;
    const Index TN = z.T * z.N, NH = z.N * z.H, GH = gate_count(cell) * z.H;
    Backward<S> k{};
    k.cell = cell;
    k.sizes = z;
    k.x = b.in<S>(x, TN * z.I, "x", true);
    k.w_ih = b.in<S>(w_ih, GH * z.I, "w_ih", true);
    k.w_hh = b.in<S>(w_hh, GH * z.H, "w_hh", true);
    k.h0 = b.in<S>(h0, NH, "h0");
    k.c0 = b.in<S>(c0, NH, "c0");
    k.lengths = b.in<std::int64_t>(lengths, z.N, "lengths");
    k.resets = b.in<std::uint8_t>(resets, TN, "resets");
    k.reverse = reverse;
    k.round_bf16 = bf16;
    k.hidden = b.in<S>(hidden, TN * z.H, "hidden", true);
    k.state = b.in<S>(state, TN * z.H, "state", cell != Cell::gru_before);
    k.gates = b.in<S>(gates, TN * GH, "gates", true);
    k.d_hidden = b.in<S>(d_hidden, TN * z.H, "d_hidden");
    k.d_state = b.in<S>(d_state, TN * z.H, "d_state");
    k.d_gates = b.in<S>(d_gates, TN * GH, "d_gates");
    k.d_h_n = b.in<S>(d_h_n, NH, "d_h_n");
    k.d_c_n = b.in<S>(d_c_n, NH, "d_c_n");
    k.d_x = b.out<S>(d_x, TN * z.I, "d_x");
    k.d_w_ih = b.out<S>(d_w_ih, GH * z.I, "d_w_ih");
    k.d_w_hh = b.out<S>(d_w_hh, GH * z.H, "d_w_hh");
    k.d_b_ih = b.out<S>(d_b_ih, GH, "d_b_ih");
    k.d_b_hh = b.out<S>(d_b_hh, GH, "d_b_hh");
    k.d_h0 = b.out<S>(d_h0, NH, "d_h0");
    k.d_c0 = b.out<S>(d_c0, NH, "d_c0");
    check_lengths(k.lengths, z);
    nb::gil_scoped_release unlocked;
    backward(k);
}

template <class S>
void apply(void (*function)(const S*, S*, std::int64_t), nb::handle in, nb::handle out, Index count) {
    Buffers b;
    const S* from = b.in<S>(in, count, "in", true);
    S* to = b.out<S>(out, count, "out", true);
    function(from, to, count);
}

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

template <class S>
void run_adam_step(Index height, Index width, nb::handle which, Index rows, nb::handle p, nb::handle m, nb::handle v,
                   nb::handle g, double beta1, double beta2, double epsilon, double clip, double shrink, double step,
                   double correction) {
    Buffers b;
    AdamStep<S> k{};
    k.rows = rows;
    k.width = width;
    k.which = b.in<std::int64_t>(which, rows, "which");
    k.p = b.out<S>(p, height * width, "p", true);
    k.m = b.out<S>(m, height * width, "m", true);
    k.v = b.out<S>(v, height * width, "v", true);
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
    k.rows = rows;
    k.width = width;
    k.which = b.in<std::int64_t>(which, rows, "which");
    k.p = b.out<S>(p, height * width, "p", true);
    k.m = b.out<S>(m, height * width, "m", true);
    k.v = b.out<S>(v, height * width, "v", true);
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

NB_MODULE(_native, m) {
    m.def("isa", [] { return std::string(isa()); });
    m.def("threads", &threads);
    m.def("set_threads", &set_threads, "count"_a);

    nb::class_<Packed>(m, "Packed")
        .def(nb::init<int, bool, Index, Index, nb::handle, nb::handle, nb::handle, nb::handle, bool>(), "cell"_a, "twice"_a,
             "I"_a, "H"_a, "w_ih"_a, "w_hh"_a, "b_ih"_a.none(), "b_hh"_a.none(), "bf16"_a)
        .def("step", &Packed::step, "N"_a, "x"_a, "h"_a, "c"_a.none(), "gates"_a.none() = nb::none());

    m.def(
        "forward",
        [](int cell, bool twice, Index T, Index N, Index I, Index H, nb::handle x, nb::handle w_ih, nb::handle w_hh,
           nb::handle b_ih, nb::handle b_hh, const Packed* packed, nb::handle h0, nb::handle c0, nb::handle lengths,
           nb::handle resets, bool reverse, bool bf16, nb::handle hidden, nb::handle state, nb::handle gates,
           nb::handle h_n, nb::handle c_n, nb::handle edit_rows, nb::handle edits, Index edit_count) {
            const Cell kind = cell_of(cell);
            if (packed != nullptr) packed->expect(kind, twice, I, H, bf16);
            auto run = twice ? run_forward<double> : run_forward<float>;
            run(kind, sizes_of(T, N, I, H), packed, x, w_ih, w_hh, b_ih, b_hh, h0, c0, lengths, resets, reverse, bf16,
                hidden, state, gates, h_n, c_n, edit_rows, edits, edit_count);
        },
        "cell"_a, "twice"_a, "T"_a, "N"_a, "I"_a, "H"_a, "x"_a, "w_ih"_a.none(), "w_hh"_a.none(), "b_ih"_a.none(),
        "b_hh"_a.none(), "packed"_a.none(), "h0"_a.none(), "c0"_a.none(), "lengths"_a.none(), "resets"_a.none(),
        "reverse"_a, "bf16"_a, "hidden"_a, "state"_a.none(), "gates"_a.none(), "h_n"_a, "c_n"_a.none(),
        "edit_rows"_a.none() = nb::none(), "edits"_a.none() = nb::none(), "edit_count"_a = 0);

    m.def(
        "backward",
        [](int cell, bool twice, Index T, Index N, Index I, Index H, nb::handle x, nb::handle w_ih, nb::handle w_hh,
           nb::handle h0, nb::handle c0, nb::handle lengths, nb::handle resets, bool reverse, bool bf16, nb::handle hidden,
           nb::handle state, nb::handle gates, nb::handle d_hidden, nb::handle d_state, nb::handle d_gates,
           nb::handle d_h_n, nb::handle d_c_n, nb::handle d_x, nb::handle d_w_ih, nb::handle d_w_hh, nb::handle d_b_ih,
           nb::handle d_b_hh, nb::handle d_h0, nb::handle d_c0) {
            auto run = twice ? run_backward<double> : run_backward<float>;
            run(cell_of(cell), sizes_of(T, N, I, H), x, w_ih, w_hh, h0, c0, lengths, resets, reverse, bf16, hidden, state,
                gates, d_hidden, d_state, d_gates, d_h_n, d_c_n, d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h0, d_c0);
        },
        "cell"_a, "twice"_a, "T"_a, "N"_a, "I"_a, "H"_a, "x"_a, "w_ih"_a, "w_hh"_a, "h0"_a.none(), "c0"_a.none(),
        "lengths"_a.none(), "resets"_a.none(), "reverse"_a, "bf16"_a, "hidden"_a, "state"_a.none(), "gates"_a,
        "d_hidden"_a.none(), "d_state"_a.none(), "d_gates"_a.none(), "d_h_n"_a.none(), "d_c_n"_a.none(), "d_x"_a.none(),
        "d_w_ih"_a.none(), "d_w_hh"_a.none(), "d_b_ih"_a.none(), "d_b_hh"_a.none(), "d_h0"_a.none(), "d_c0"_a.none());

    m.def(
        "activation",
        [](bool is_tanh, bool twice, nb::handle in, nb::handle out, Index count) {
            if (twice) apply<double>(is_tanh ? tanh<double> : sigmoid<double>, in, out, count);
            else apply<float>(is_tanh ? tanh<float> : sigmoid<float>, in, out, count);
        },
        "is_tanh"_a, "twice"_a, "source"_a, "target"_a, "count"_a);

    m.def(
        "softmax_loss",
        [](bool twice, Index rows, Index entries, Index stride, nb::handle x, nb::handle bias, nb::handle targets,
           double scale, nb::handle loss) {
            auto run = twice ? run_softmax_loss<double> : run_softmax_loss<float>;
            run(rows, entries, stride, x, bias, targets, scale, loss);
        },
        "twice"_a, "rows"_a, "entries"_a, "stride"_a, "x"_a, "bias"_a.none(), "targets"_a, "scale"_a,
        "loss"_a);

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
