// The recurrences once more, scalar by scalar in double: slow, short, and written from the equations alone.
#pragma once

#include "kernels.hpp"

#include <cmath>
#include <vector>

namespace reference {

using glassgate::kernels::Cell;
using glassgate::kernels::Sizes;
using Index = std::int64_t;
using Doubles = std::vector<double>;

struct Problem {
    Cell cell;
    Sizes z;
    bool reverse;
    Doubles x, w_ih, w_hh, b_ih, b_hh, h0, c0;       // always full: zeros stand for what is absent
    std::vector<std::int64_t> lengths;               // [N]
    std::vector<std::uint8_t> resets;                // [T, N]
    Doubles d_hidden, d_state, d_gates, d_h_n, d_c_n;  // likewise full
};

struct Answer {
    Doubles hidden, state, gates, h_n, c_n;
    Doubles d_x, d_w_ih, d_w_hh, d_b_ih, d_b_hh, d_h0, d_c0;
};

inline double sigmoid(double a) { return 1 / (1 + std::exp(-a)); }

inline Answer solve(const Problem& p) {
    const auto [T, N, I, H] = p.z;
    const bool lstm = p.cell == Cell::lstm, after = p.cell == Cell::gru_after;
    const Index G = lstm ? 4 : 3;
    Answer a;
    const auto fill = [](Doubles& to, Index count) { to.assign(static_cast<std::size_t>(count), 0.0); };
    fill(a.hidden, T * N * H), fill(a.state, T * N * H), fill(a.gates, T * N * G * H);
    a.h_n = p.h0, a.c_n = p.c0;
    fill(a.d_x, T * N * I), fill(a.d_w_ih, G * H * I), fill(a.d_w_hh, G * H * H);
    fill(a.d_b_ih, G * H), fill(a.d_b_hh, G * H);
    a.d_h0 = p.d_h_n, a.d_c0 = p.d_c_n;

    for (Index n = 0; n < N; ++n) {
        double *h = a.h_n.data() + n * H, *c = a.c_n.data() + n * H;
        const Index length = p.lengths[n];
        std::vector<Doubles> old_h(length), old_c(length), inputs(length), products(length);
        const auto time = [&](Index s) { return p.reverse ? length - 1 - s : s; };
        for (Index s = 0; s < length; ++s) {
            const Index t = time(s), at = t * N + n;
            if (p.resets[at])
                for (Index u = 0; u < H; ++u) h[u] = c[u] = 0;
            old_h[s].assign(h, h + H), old_c[s].assign(c, c + H);
            inputs[s].assign(G * H, 0), products[s].assign(G * H, 0);
            for (Index m = 0; m < G * H; ++m) {
                inputs[s][m] = p.b_ih[m];
                for (Index i = 0; i < I; ++i) inputs[s][m] += p.w_ih[m * I + i] * p.x[at * I + i];
                products[s][m] = p.b_hh[m];
                for (Index u = 0; u < H; ++u) products[s][m] += p.w_hh[m * H + u] * old_h[s][u];
            }
            double* gate = a.gates.data() + at * G * H;
            for (Index m = 0; m < (lstm ? G : 2) * H; ++m) {
                const double sum = inputs[s][m] + products[s][m];
                gate[m] = lstm && m / H == 2 ? std::tanh(sum) : sigmoid(sum);
            }
            for (Index u = 0; u < H; ++u) {
                if (lstm) {
                    c[u] = gate[H + u] * c[u] + gate[u] * gate[2 * H + u];
                    h[u] = gate[3 * H + u] * std::tanh(c[u]);
                    a.state[at * H + u] = c[u];
                    continue;
                }
                double inner = gate[u] * products[s][2 * H + u];
                if (after) {
                    a.state[at * H + u] = products[s][2 * H + u];
                } else {
                    inner = p.b_hh[2 * H + u];
                    for (Index v = 0; v < H; ++v) inner += p.w_hh[(2 * H + u) * H + v] * gate[v] * old_h[s][v];
                }
                gate[2 * H + u] = std::tanh(inputs[s][2 * H + u] + inner);
                h[u] = (1 - gate[H + u]) * gate[2 * H + u] + gate[H + u] * old_h[s][u];
            }
            for (Index u = 0; u < H; ++u) a.hidden[at * H + u] = h[u];
        }

        double *dh = a.d_h0.data() + n * H, *dc = a.d_c0.data() + n * H;
        for (Index s = length; s-- > 0;) {
            const Index t = time(s), at = t * N + n;
            const double *gate = a.gates.data() + at * G * H, *extra = p.d_gates.data() + at * G * H;
            Doubles d_in(G * H, 0), d_out(G * H, 0), back(H, 0), rh(H, 0), d_rh(H, 0);  // sums of the input, hidden side
            for (Index u = 0; u < H; ++u) {
                const double dhu = dh[u] + p.d_hidden[at * H + u];
                if (lstm) {
                    const double i = gate[u], f = gate[H + u], g = gate[2 * H + u], o = gate[3 * H + u];
                    const double shown = std::tanh(a.state[at * H + u]);
                    const double dcu = dc[u] + p.d_state[at * H + u] + dhu * o * (1 - shown * shown);
                    d_in[u] = (dcu * g + extra[u]) * i * (1 - i);
                    d_in[H + u] = (dcu * old_c[s][u] + extra[H + u]) * f * (1 - f);
                    d_in[2 * H + u] = (dcu * i + extra[2 * H + u]) * (1 - g * g);
                    d_in[3 * H + u] = (dhu * shown + extra[3 * H + u]) * o * (1 - o);
                    dc[u] = dcu * f;
                    continue;
                }
                const double r = gate[u], z = gate[H + u], g = gate[2 * H + u];
                d_in[2 * H + u] = (dhu * (1 - z) + extra[2 * H + u]) * (1 - g * g);
                d_in[H + u] = (dhu * (old_h[s][u] - g) + extra[H + u]) * z * (1 - z);
                back[u] = dhu * z;
                rh[u] = r * old_h[s][u];
                if (after) d_in[u] = (d_in[2 * H + u] * products[s][2 * H + u] + extra[u]) * r * (1 - r);
            }
            d_out = d_in;
            if (after)
                for (Index u = 0; u < H; ++u) d_out[2 * H + u] = d_in[2 * H + u] * gate[u] + p.d_state[at * H + u];
            if (!lstm && !after) {
                for (Index v = 0; v < H; ++v)
                    for (Index u = 0; u < H; ++u) d_rh[u] += d_in[2 * H + v] * p.w_hh[(2 * H + v) * H + u];
                for (Index u = 0; u < H; ++u) {
                    const double r = gate[u];
                    d_in[u] = d_out[u] = (d_rh[u] * old_h[s][u] + extra[u]) * r * (1 - r);
                    back[u] += d_rh[u] * r;
                }
            }
            for (Index m = 0; m < G * H; ++m) {
                const bool past_reset = !lstm && !after && m / H == 2;
                a.d_b_ih[m] += d_in[m], a.d_b_hh[m] += d_out[m];
                for (Index i = 0; i < I; ++i) {
                    a.d_w_ih[m * I + i] += d_in[m] * p.x[at * I + i];
                    a.d_x[at * I + i] += d_in[m] * p.w_ih[m * I + i];
                }
                for (Index u = 0; u < H; ++u) {
                    a.d_w_hh[m * H + u] += d_out[m] * (past_reset ? rh[u] : old_h[s][u]);
                    if (!past_reset) back[u] += d_out[m] * p.w_hh[m * H + u];
                }
            }
            for (Index u = 0; u < H; ++u) {
                dh[u] = p.resets[at] ? 0 : back[u];
                if (lstm && p.resets[at]) dc[u] = 0;
            }
        }
    }
    return a;
}

}  // namespace reference
