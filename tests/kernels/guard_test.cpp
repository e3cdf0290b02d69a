// Every kernel of every instruction set against the reference, over drawn shapes, with a page that must not be touched on
// each side of every buffer, inputs that must not be written, and scratch memory full of NaN.
//
// Usage: guard_test [shapes] [seed]. Prints what it did, ends with 1 at the first difference.
#include "cpu.hpp"
#include "output_cases.hpp"
#include "team.hpp"

#if defined(GLASSGATE_X86)
namespace glassgate::kernels { GLASSGATE_SET(wide) }  // 64-byte vectors, lowered to AVX2
#endif

namespace {

using namespace guarded;

// What is absent is zeros for the reference and a null pointer for the kernel.
struct Absent {
    bool bias, states, lengths, resets, d_hidden, d_state, d_gates, d_final, some_outputs, packed;
};

// What a result may be off by, as a share of the largest: the rounding errors of sums of a few hundred products, carried
// over the steps.
struct Rounding {
    double first, step, backward_first, backward_step;
    double forward(Index steps) const { return first + step * static_cast<double>(steps); }
    double backward(Index steps) const { return backward_first + backward_step * static_cast<double>(steps); }
};
template <class S>
constexpr Rounding own_rounding{64 * epsilon<S>, 32 * epsilon<S>, 512 * epsilon<S>, 256 * epsilon<S>};
constexpr Rounding bf16_rounding{0.016, 0.008, 0.064, 0.032};  // of factors, 2^-9 each

template <class S>
Bits<S> run(const Passes<S>& passes, const reference::Problem& p, const Absent& no, const reference::Answer& want,
            bool at_end, const std::string& where, const Rounding& rounding) {
    Buffers<S> b(at_end);
    const bool lstm = p.cell == Cell::lstm, none = no.some_outputs;
    const auto [T, N, I, H] = p.z;
    Forward<S> f{};
    f.cell = p.cell, f.sizes = p.z, f.reverse = p.reverse;
    f.x = b.in(p.x), f.w_ih = b.in(p.w_ih), f.w_hh = b.in(p.w_hh);
    f.b_ih = b.in(p.b_ih, no.bias), f.b_hh = b.in(p.b_hh, no.bias);
    f.h0 = b.in(p.h0, no.states), f.c0 = b.in(p.c0, no.states || !lstm);
    f.lengths = b.raw(p.lengths, no.lengths), f.resets = b.raw(p.resets, no.resets);
    f.hidden = b.out(want.hidden.size()), f.state = b.out(want.state.size(), p.cell == Cell::gru_before);
    f.gates = b.out(want.gates.size());
    f.h_n = b.out(want.h_n.size()), f.c_n = b.out(want.c_n.size(), !lstm);
    if (!no.packed) {
        S* packed = b.out(passes.packed_size(p.cell, I, H) + 16);
        packed += (64 - reinterpret_cast<std::uintptr_t>(packed) % 64) % 64 / sizeof(S);
        passes.pack(p.cell, I, H, f.w_ih, f.w_hh, f.b_ih, f.b_hh, packed);
        f.packed = packed;
    }
    std::memset(scratch(1 << 20), 0xff, 1 << 20);
    passes.forward(f);
    const double allowed = rounding.forward(T);
    compare("hidden", f.hidden, want.hidden, where, allowed);
    compare("state", f.state, want.state, where, allowed);
    compare("gates", f.gates, want.gates, where, allowed);
    compare("h_n", f.h_n, want.h_n, where, allowed);
    compare("c_n", f.c_n, want.c_n, where, allowed);

    Backward<S> k{};
    k.cell = f.cell, k.sizes = f.sizes, k.x = f.x, k.w_ih = f.w_ih, k.w_hh = f.w_hh, k.h0 = f.h0, k.c0 = f.c0;
    k.lengths = f.lengths, k.resets = f.resets, k.reverse = f.reverse;
    k.hidden = f.hidden, k.state = f.state, k.gates = f.gates;
    k.d_hidden = b.in(p.d_hidden, no.d_hidden), k.d_gates = b.in(p.d_gates, no.d_gates);
    k.d_state = b.in(p.d_state, no.d_state || p.cell == Cell::gru_before);
    k.d_h_n = b.in(p.d_h_n, no.d_final), k.d_c_n = b.in(p.d_c_n, no.d_final || !lstm);
    k.d_x = b.out(want.d_x.size(), none), k.d_w_ih = b.out(want.d_w_ih.size()), k.d_w_hh = b.out(want.d_w_hh.size(), none);
    k.d_b_ih = b.out(want.d_b_ih.size(), none), k.d_b_hh = b.out(want.d_b_hh.size());
    k.d_h0 = b.out(want.d_h0.size()), k.d_c0 = b.out(want.d_c0.size(), !lstm || none);
    std::memset(scratch(1 << 20), 0xff, 1 << 20);
    passes.backward(k);
    const double growth = rounding.backward(T);
    compare("d_x", k.d_x, want.d_x, where, growth), compare("d_w_ih", k.d_w_ih, want.d_w_ih, where, growth);
    compare("d_w_hh", k.d_w_hh, want.d_w_hh, where, growth), compare("d_b_ih", k.d_b_ih, want.d_b_ih, where, growth);
    compare("d_b_hh", k.d_b_hh, want.d_b_hh, where, growth), compare("d_h0", k.d_h0, want.d_h0, where, growth);
    compare("d_c0", k.d_c0, want.d_c0, where, growth);

    // Inference writes no gates; its outputs must be the same bits.
    Forward<S> plain = f;
    plain.hidden = b.out(want.hidden.size()), plain.gates = nullptr, plain.state = nullptr;
    passes.forward(plain);
    if (std::memcmp(plain.hidden, f.hidden, want.hidden.size() * sizeof(S)) != 0) {
        std::printf("%s: hidden differs without gates\n", where.c_str());
        ++failures;
    }
    // Nor do edits that change nothing make a difference; their rows end where nothing may be read.
    const Index kinds = gate_count(p.cell) + state_count(p.cell);
    reference::Doubles neutral(4 * H, 1);
    std::fill(neutral.begin() + H, neutral.begin() + 2 * H, -0.0);
    std::fill(neutral.begin() + 2 * H, neutral.begin() + 3 * H, -std::numeric_limits<double>::infinity());
    std::fill(neutral.begin() + 3 * H, neutral.end(), std::numeric_limits<double>::infinity());
    Forward<S> edited = f;
    edited.edit_rows = b.raw(std::vector<std::int32_t>(T * N * kinds, 0), false), edited.edits = b.in(neutral);
    edited.hidden = b.out(want.hidden.size()), edited.gates = b.out(want.gates.size());
    passes.forward(edited);
    if (std::memcmp(edited.hidden, f.hidden, want.hidden.size() * sizeof(S)) != 0 ||
        std::memcmp(edited.gates, f.gates, want.gates.size() * sizeof(S)) != 0) {
        std::printf("%s: edits that change nothing change bits\n", where.c_str());
        ++failures;
    }
    // A stream's step writes the new state over the old one; its outputs must be the same bits.
    if (T > 0) {
        Forward<S> apart = f;
        apart.sizes.T = 1, apart.lengths = nullptr, apart.resets = nullptr, apart.reverse = false, apart.state = nullptr;
        apart.hidden = b.out(N * H), apart.gates = b.out(N * gate_count(p.cell) * H);
        apart.h_n = b.out(N * H), apart.c_n = b.out(N * H, !lstm);
        passes.forward(apart);
        Forward<S> step = apart;
        S* h = b.raw_out(std::vector<S>(p.h0.begin(), p.h0.end()));
        S* c = lstm ? b.raw_out(std::vector<S>(p.c0.begin(), p.c0.end())) : nullptr;
        step.h0 = h, step.h_n = h, step.hidden = h, step.c0 = c, step.c_n = c;
        step.gates = b.out(N * gate_count(p.cell) * H);
        passes.forward(step);
        const auto differs = [](const S* one, const S* other, Index count) {
            return count > 0 && std::memcmp(one, other, static_cast<std::size_t>(count) * sizeof(S)) != 0;
        };
        const auto expect_same = [&](const char* what) {
            if (!differs(h, apart.h_n, N * H) && !differs(h, apart.hidden, N * H) && !(lstm && differs(c, apart.c_n, N * H)) &&
                !differs(step.gates, apart.gates, N * gate_count(p.cell) * H))
                return;
            std::printf("%s: %s differs\n", where.c_str(), what);
            ++failures;
        };
        expect_same("a step in place");
        // The same from what its inputs add up to, the weights read from the last to the first.
        if (f.packed != nullptr) {
            S* sums = b.out(N * passes.input_sums_size(p.cell, H));
            passes.input_sums(apart, sums);
            std::copy(p.h0.begin(), p.h0.end(), h);
            if (lstm) std::copy(p.c0.begin(), p.c0.end(), c);
            step.x = nullptr, step.sums = sums, step.back = true;
            passes.forward(step);
            expect_same("a step from the sums of its inputs");
        }
    }
    Bits<S> bits;
    const auto keep = [&](const S* from, std::size_t count) {
        if (from != nullptr) bits.emplace_back(from, from + count);
    };
    keep(f.hidden, want.hidden.size()), keep(f.gates, want.gates.size()), keep(k.d_x, want.d_x.size());
    keep(k.d_w_ih, want.d_w_ih.size()), keep(k.d_w_hh, want.d_w_hh.size()), keep(k.d_b_hh, want.d_b_hh.size());
    keep(k.d_h0, want.d_h0.size());
    return bits;
}

// The kernels of one instruction set.
struct Set {
    const char* name;
    const Table* table;
    const Passes<float>* bf16;
    void (*backward_by_parts)(const Backward<float>&) = nullptr;

    // For numbers of S, any way to their gradients that the set adds included.
    template <class S> Passes<S> passes() const {
        Passes<S> all = entries<S>(*table).passes;
        if constexpr (sizeof(S) == sizeof(float))
            if (backward_by_parts != nullptr) all.backward = backward_by_parts;
        return all;
    }
};

// Under every instruction set, with one thread and with several, the buffers' ends and then their beginnings at a guard
// page: the same bits for any number of threads, and if `any_width` for any width of the vectors.
template <class S, class Run>
void in_every_way(const std::string& shape, int threads, bool any_width, const Run& once) {
    const auto all = [&](const Set& set) {
        const std::string name = shape + " " + set.name;
        set_threads(1);
        const Bits<S> one = once(set, true, name);
        set_threads(threads);
        const Bits<S> many = once(set, false, name + " threads " + std::to_string(threads));
        if (!same(one, many)) {
            std::printf("%s: %d threads give other bits than one\n", name.c_str(), threads);
            ++failures;
        }
        return one;
    };
    all({"baseline", &baseline::table, &baseline::bf16_passes});
#if defined(GLASSGATE_X86)
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    const Bits<S> narrow = all({"avx2", &avx2::table, &avx2::bf16_passes});
    const Bits<S> wide_bits = all({"wide", &wide::table, &wide::bf16_passes});
    if (any_width && !same(narrow, wide_bits)) {
        std::printf("%s: 32-byte and 64-byte vectors give different bits\n", shape.c_str());
        ++failures;
    }
    if (!has_avx512()) return;
    all({"avx512", &avx512::table, &avx512::bf16_passes});
#endif
#if defined(GLASSGATE_X86_BF16)
    if (__builtin_cpu_supports("avx512bf16")) all({"avx512bf16", &avx512::table, &avx512bf16::bf16_passes});
    if (has_matrix_tiles()) all({"amx", &avx512::table, &amx::bf16_passes, amx::backward_by_parts});
#endif
}

template <class S>
void check(const std::string& type, const reference::Problem& p, const Absent& no, const reference::Answer& want, int threads) {
    const auto [T, N, I, H] = p.z;
    const std::string shape = type + " cell " + std::to_string(static_cast<int>(p.cell)) + " T" + std::to_string(T) + " N" +
                              std::to_string(N) + " I" + std::to_string(I) + " H" + std::to_string(H);
    in_every_way<S>(shape, threads, true, [&](const Set& set, bool at_end, const std::string& where) {
        return run<S>(set.passes<S>(), p, no, want, at_end, where, own_rounding<S>);
    });
    if constexpr (sizeof(S) == sizeof(float))
        in_every_way<S>("bf16 " + shape, threads, true, [&](const Set& set, bool at_end, const std::string& where) {
            return run<S>(*set.bf16, p, no, want, at_end, where, bf16_rounding);
        });
}

template <class S> void check_output(const std::string& type, Draw& draw, int threads) {
    const OutputCase c(draw);
    in_every_way<S>(type + c.name(), threads, false, [&](const Set& set, bool at_end, const std::string& where) {
        return run_output<S>(entries<S>(*set.table), c, at_end, where);
    });
}

}  // namespace

int main(int count, char** arguments) {
    const int shapes = count > 1 ? std::atoi(arguments[1]) : 500;
    Draw draw{std::mt19937_64(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1)};
    for (int i = 0; i < shapes && failures == 0; ++i) {
        reference::Problem p;
        p.cell = static_cast<Cell>(i % 3);
        const bool large = i % 10 == 0;  // enough work for several threads
        const bool wide = i % 20 == 15;  // weights of a single step that fill more than a cache
        const bool long_ = i % 40 == 5;  // several chunks of the backward pass, each of 512 rows or of one step
        p.z = wide    ? Sizes{1, draw.whole(1, 20), draw.whole(0, 500), draw.whole(250, 300)}
              : large ? Sizes{draw.whole(1, 8), draw.whole(1, 40), draw.whole(0, 150), draw.whole(20, 150)}
              : long_ ? Sizes{draw.coin() ? draw.whole(2, 4) : draw.whole(5, 30), 0, draw.whole(0, 9), draw.whole(1, 36)}
                      : Sizes{draw.whole(0, 6), draw.whole(0, 9), draw.whole(0, 20), draw.whole(0, 36)};
        // More rows than one chunk of a backward pass takes, of float or of bfloat16.
        if (long_) p.z.N = (draw.coin() ? draw.whole(1025, 1200) : draw.whole(2049, 2300)) / p.z.T + 1;
        const auto [T, N, I, H] = p.z;
        const Index G = gate_count(p.cell);
        Absent no{draw.coin(), draw.coin(), draw.coin(), draw.coin(), draw.coin(),
                  draw.coin(), draw.coin(), draw.coin(), draw.coin(), draw.coin()};
        p.reverse = draw.coin();
        const auto zeros_if = [](bool absent, reference::Doubles values) {
            if (absent) std::fill(values.begin(), values.end(), 0.0);
            return values;
        };
        p.x = draw.normal(T * N * I, 1);
        p.w_ih = draw.normal(G * H * I, 1 / std::sqrt(1.0 + static_cast<double>(I)));
        p.w_hh = draw.normal(G * H * H, 1 / std::sqrt(1.0 + static_cast<double>(H)));
        p.b_ih = zeros_if(no.bias, draw.normal(G * H, 1)), p.b_hh = zeros_if(no.bias, draw.normal(G * H, 1));
        p.h0 = zeros_if(no.states, draw.normal(N * H, 1)), p.c0 = zeros_if(no.states, draw.normal(N * H, 1));
        p.d_hidden = zeros_if(no.d_hidden, draw.normal(T * N * H, 1));
        p.d_state = zeros_if(no.d_state || p.cell == Cell::gru_before, draw.normal(T * N * H, 1));
        p.d_gates = zeros_if(no.d_gates, draw.normal(T * N * G * H, 1));
        p.d_h_n = zeros_if(no.d_final, draw.normal(N * H, 1)), p.d_c_n = zeros_if(no.d_final, draw.normal(N * H, 1));
        p.lengths.assign(static_cast<std::size_t>(N), T);
        p.resets.assign(static_cast<std::size_t>(T * N), 0);
        for (auto& length : p.lengths)
            if (!no.lengths) length = draw.whole(0, T);
        for (auto& reset : p.resets)
            if (!no.resets) reset = draw.whole(0, 3) == 0;
        const reference::Answer want = reference::solve(p);
        const int threads = static_cast<int>(draw.whole(2, 4));
        check<float>("float", p, no, want, threads);
        check<double>("double", p, no, want, threads);
        check_output<float>("float", draw, threads);
        check_output<double>("double", draw, threads);
    }
    std::printf("%d shapes, %d failures\n", shapes, failures);
    return failures == 0 ? 0 : 1;
}
