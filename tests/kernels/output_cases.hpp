// The kernels of output.hpp against plain loops in double precision.
#pragma once

#include "guarded.hpp"

#include <cmath>

namespace guarded {

// Rows of a matrix of `height` rows, some of them chosen, and numbers for each kernel.
struct OutputCase {
    explicit OutputCase(Draw& draw)
        : height(draw.whole(1, 90)), width(draw.whole(1, 70) * (draw.whole(0, 9) == 0 ? 40 : 1)), all(draw.coin()),
          bias(draw.coin()), beyond(draw.whole(0, 5)) {
        for (Index row = 0; row < height; ++row)
            if (all || draw.coin()) which.push_back(row);
        for (Index row = 0; row < height; ++row) {
            targets.push_back(draw.whole(0, width - 1));
            added.push_back(draw.whole(0, height - 1));
            stamps.push_back(draw.whole(0, now));
            in_play.push_back(draw.coin());
        }
        const Index size = height * width;
        x = draw.normal(height * (width + beyond), 3), c = draw.normal(width, 3);
        p = draw.normal(size, 1), g = draw.normal(size, 1), m = draw.normal(size, 1), v = draw.normal(size, 1);
        for (double& value : v) value = static_cast<float>(value * value);
        for (double& value : m) value = draw.whole(0, 7) == 0 ? 0 : value;
    }
    std::string name() const {
        return " output height" + std::to_string(height) + " width" + std::to_string(width) + (all ? " all" : " some");
    }

    Index height, width;
    bool all, bias;
    Index beyond;  // numbers between the rows of the logits
    std::vector<std::int64_t> which, targets, added, stamps;
    std::vector<std::uint8_t> in_play;
    reference::Doubles x, c, p, g, m, v;
    static constexpr Index now = 6;
    const double shrink[now + 1] = {0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1}, move[now + 1] = {0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0};
    const double power1[now + 1] = {1, 0.9, 0.81, 0.729, 0.6561, 0.59049, 0.531441};
    const double power2[now + 1] = {1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625};
};

template <class S> class OutputRun {
  public:
    OutputRun(const Entries<S>& kernels, const OutputCase& c, bool at_end, const std::string& where)
        : k_(kernels), c_(c), b_(at_end), where_(where) {}

    Bits<S> run() {
        softmax();
        step();
        catch_up();
        add();
        squares();
        return bits_;
    }

  private:
    // A copy that the kernel may write.
    S* copy(const reference::Doubles& values) {
        S* to = b_.out(values.size());
        for (std::size_t i = 0; i < values.size(); ++i) to[i] = static_cast<S>(values[i]);
        return to;
    }
    void keep(const char* what, const S* got, const reference::Doubles& want, double growth) {
        compare(what, got, want, where_, growth * epsilon<S>);
        bits_.emplace_back(got, got + want.size());
    }

    void softmax() {
        const Index n = c_.width, stride = n + c_.beyond;
        reference::Doubles want = c_.x, losses;
        const double scale = 0.25;
        for (Index r = 0; r < c_.height; ++r) {
            double* z = want.data() + r * stride;
            double most = -1e300, sum = 0;
            for (Index j = 0; j < n; ++j) most = std::max(most, z[j] += c_.bias ? c_.c[j] : 0);
            for (Index j = 0; j < n; ++j) sum += std::exp(z[j] - most);
            const Index target = c_.targets[r];
            losses.push_back(std::log(sum) + most - z[target]);
            for (Index j = 0; j < n; ++j) z[j] = scale * (std::exp(z[j] - most) / sum - (j == target));
        }
        // The last row ends with its entries: nothing may be touched beyond.
        reference::Doubles given(c_.x.begin(), c_.x.end() - c_.beyond);
        want.resize(given.size());
        S *x = copy(given), *loss = b_.out(losses.size());
        k_.softmax_loss({c_.height, n, stride, x, b_.in(c_.c, !c_.bias), b_.raw(c_.targets, false), S(scale), loss});
        // Sums of `n` exponentials, each within a few units.
        const double growth = 16 + 2 * std::sqrt(static_cast<double>(n));
        keep("gradient", x, want, growth);
        keep("loss", loss, losses, growth);
    }

    void step() {
        reference::Doubles p = c_.p, m = c_.m, v = c_.v;
        const double beta1 = 0.9, beta2 = 0.75, epsilon = 1e-3, clip = 0.5, shrink = 0.875, rate = 0.125, correction = 0.5;
        for (const Index row : c_.which)
            for (Index i = row * c_.width; i < (row + 1) * c_.width; ++i) {
                const double g = clip * c_.g[i];
                m[i] = beta1 * m[i] + (1 - beta1) * g;
                v[i] = beta2 * v[i] + (1 - beta2) * g * g;
                p[i] = shrink * p[i] - rate * m[i] / (std::sqrt(v[i]) / correction + epsilon);
            }
        S *to_p = copy(c_.p), *to_m = copy(c_.m), *to_v = copy(c_.v);
        k_.adam_step({static_cast<Index>(c_.which.size()), c_.width, rows(), to_p, to_m, to_v, b_.in(c_.g), beta1, beta2, epsilon,
                      clip, shrink, rate, correction});
        keep("p", to_p, p, 64), keep("m", to_m, m, 16), keep("v", to_v, v, 16);
    }

    void catch_up() {
        reference::Doubles p = c_.p, m = c_.m, v = c_.v;
        const double epsilon = 1e-3;
        std::vector<std::int64_t> stamps = c_.stamps;
        for (const Index row : c_.which) {
            const auto from = static_cast<std::size_t>(stamps[row]);
            const std::size_t skipped = OutputCase::now - from;
            if (skipped == 0) continue;
            for (Index i = row * c_.width; i < (row + 1) * c_.width; ++i) {
                const double moved = m[i] == 0 ? 0 : c_.move[from] * m[i] / (std::sqrt(v[i]) + epsilon);
                p[i] = p[i] * c_.shrink[from] - moved;
                m[i] *= c_.power1[skipped], v[i] *= c_.power2[skipped];
            }
            stamps[row] = OutputCase::now;
        }
        S *to_p = copy(c_.p), *to_m = copy(c_.m), *to_v = copy(c_.v);
        std::int64_t* stamp = b_.raw_out(c_.stamps);
        k_.adam_catch_up({static_cast<Index>(c_.which.size()), c_.width, rows(), to_p, to_m, to_v, stamp, OutputCase::now, c_.shrink,
                          c_.move, c_.power1, c_.power2, epsilon});
        keep("late p", to_p, p, 64), keep("late m", to_m, m, 16), keep("late v", to_v, v, 16);
        equal("stamp", stamp, stamps);
    }

    void add() {
        reference::Doubles want = c_.p;
        std::vector<std::uint8_t> in_play = c_.in_play;
        for (Index i = 0; i < c_.height; ++i) {
            const Index row = c_.added[i];
            for (Index j = 0; j < c_.width; ++j) {
                double& to = want[row * c_.width + j];
                to = (in_play[row] ? to : 0) + c_.g[i * c_.width + j];
            }
            in_play[row] = 1;
        }
        S* target = copy(c_.p);
        std::uint8_t* play = b_.raw_out(c_.in_play);
        k_.add_rows({c_.height, c_.width, b_.raw(c_.added, false), b_.in(c_.g), target, play});
        keep("rows", target, want, 2.0 * static_cast<double>(c_.height));
        equal("in play", play, in_play);
    }

    void squares() {
        double want = 0;
        for (const Index row : c_.which)
            for (Index i = row * c_.width; i < (row + 1) * c_.width; ++i) want += c_.g[i] * c_.g[i];
        const double got = k_.sum_of_squares(static_cast<Index>(c_.which.size()), c_.width, rows(), b_.in(c_.g));
        const S rounded = static_cast<S>(got);
        const double count = static_cast<double>(c_.which.size()) * c_.width;  // `want` errs more
        compare("squares", &rounded, {want}, where_, (64 + count) * epsilon<S>);
        bits_.push_back({rounded});
    }

    const std::int64_t* rows() { return b_.raw(c_.which, c_.all); }
    template <class B> void equal(const char* what, const B* got, const std::vector<B>& want) {
        if (std::equal(want.begin(), want.end(), got)) return;
        std::printf("%s: %s differs\n", where_.c_str(), what);
        ++failures;
    }

    const Entries<S>& k_;
    const OutputCase& c_;
    Buffers<S> b_;
    const std::string& where_;
    Bits<S> bits_;
};

template <class S>
Bits<S> run_output(const Entries<S>& kernels, const OutputCase& c, bool at_end, const std::string& where) {
    return OutputRun<S>(kernels, c, at_end, where).run();
}

}  // namespace guarded
