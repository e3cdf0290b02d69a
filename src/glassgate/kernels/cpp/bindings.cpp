// The kernels for Python: sizes and buffers in, nothing else. Shapes and types are checked in kernels/_checks.py.
#include "buffers.hpp"
#include "kernels.hpp"
#include "team.hpp"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include <nanobind/stl/string.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace glassgate::kernels;
using glassgate::Buffers;
using Index = std::int64_t;

void add_output_functions(nb::module_& m);  // output_bindings.cpp

namespace {

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

    // h (and c) one step on, in place, N sequences; x holds inputs, or their sums.
    void step(Index N, nb::handle x, nb::handle h, nb::handle c, nb::handle gates, bool summed, int threads) const {
        if (twice_) one_step<double>(N, x, h, c, gates, summed, threads);
        else one_step<float>(N, x, h, c, gates, summed, threads);
    }

    Index sums_size() const {
        return static_cast<Index>(twice_ ? input_sums_size<double>(cell_, z_.H, bf16_) : input_sums_size<float>(cell_, z_.H, bf16_));
    }
    void sums(Index N, nb::handle x, nb::handle sums, int threads) const {
        if (twice_) write_sums<double>(N, x, sums, threads);
        else write_sums<float>(N, x, sums, threads);
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
        const std::size_t bytes = (packed_size<S>(cell_, I, H, bf16_) * sizeof(S) + 127) / 64 * 64;
        data_.reset(std::aligned_alloc(64, bytes));
        if (data_ == nullptr) throw std::bad_alloc();
        expect_writes(data_.get(), bytes);
        pack<S>(cell_, I, H, wi, wh, bi, bh, bf16_, static_cast<S*>(data_.get()));
    }
    template <class S> Forward<S> single_step(Index N, int threads) const {
        Forward<S> f{};
        f.cell = cell_;
        f.sizes = sizes_of(1, N, z_.I, z_.H);
        f.packed = static_cast<const S*>(data_.get());
        f.bf16 = bf16_;
        f.threads = threads;
        return f;
    }
    template <class S> void write_sums(Index N, nb::handle x, nb::handle sums, int threads) const {
        Buffers b;
        Forward<S> f = single_step<S>(N, threads);
        f.x = b.in<S>(x, N * z_.I, "x", true);
        S* to = b.out<S>(sums, N * sums_size(), "sums", true);
        nb::gil_scoped_release unlocked;
        input_sums(f, to);
    }
    template <class S>
    void one_step(Index N, nb::handle x, nb::handle h, nb::handle c, nb::handle gates, bool summed, int threads) const {
        Buffers b;
        Forward<S> f = single_step<S>(N, threads);
        const Index H = z_.H;
        (summed ? f.sums : f.x) = b.in<S>(x, N * (summed ? sums_size() : z_.I), "x", true);
        f.back = turn_.fetch_add(1, std::memory_order_relaxed) % 2 != 0;
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
    mutable std::atomic<unsigned> turn_{0};  // of the next step, whatever stream it belongs to
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
    f.bf16 = bf16;
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
    k.bf16 = bf16;
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

}  // namespace

NB_MODULE(_native, m) {
    m.def("isa", [] { return std::string(isa()); });
    m.def("threads", &threads);
    m.def("set_threads", &set_threads, "count"_a);

    nb::class_<Packed>(m, "Packed")
        .def(nb::init<int, bool, Index, Index, nb::handle, nb::handle, nb::handle, nb::handle, bool>(), "cell"_a, "twice"_a,
             "I"_a, "H"_a, "w_ih"_a, "w_hh"_a, "b_ih"_a.none(), "b_hh"_a.none(), "bf16"_a)
        .def("step", &Packed::step, "N"_a, "x"_a, "h"_a, "c"_a.none(), "gates"_a.none() = nb::none(), "summed"_a = false,
             "threads"_a = 0)
        .def("input_sums", &Packed::sums, "N"_a, "x"_a, "sums"_a, "threads"_a = 0)
        .def_prop_ro("input_sums_size", &Packed::sums_size);

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

    add_output_functions(m);
}
