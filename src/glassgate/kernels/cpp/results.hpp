// How a forward pass writes what it leaves: hidden states, and gates and cell states where they are kept. It reads none of
// it again, so all that counts is that no store waits.
#pragma once

#include "kernels.hpp"
#include "product.hpp"

namespace glassgate::kernels::GG_ISA {

template <class S> class Results {
  public:
    explicit Results(const Forward<S>& call)
        : c_(call), G(gate_count(call.cell)), H(call.sizes.H),
          bytes_(call.sizes.T * call.sizes.N * (G + 1) * H * static_cast<Index>(sizeof(S))),
          streams_(can_stream && bytes_ > cached && in_vectors()) {}

    // Whether the stores will miss the threads' own caches.
    bool large() const { return bytes_ > cached / 4; }

    // Asks for the lines of some units of row `at` = t * N + n that will be written: some gates, with the last of them the
    // states. A product's time is enough for them to come.
    GG_INLINE void expect(Index at, Index unit, Range gates) const {
        const Index last = min(unit + W, H) - 1;
        const auto line_of = [&](const S* row) { ask<1>(reinterpret_cast<const char*>(row + last)); };
        const bool ends = gates.end == G;
        if (ends) line_of(c_.hidden + at * H);
        if (streams_) return;
        for (Index g = gates.begin; c_.gates != nullptr && g < gates.end; ++g) line_of(c_.gates + (at * G + g) * H);
        if (ends && c_.state != nullptr) line_of(c_.state + at * H);
    }

    // A vector of gates or of cell states.
    GG_INLINE void save(S* to, Vec<S> v, Index count) const {
        if (streams_) return stream(to, v);
        store(to, v, count);
    }

  private:
    static constexpr Index W = width<S>;
    static constexpr Index cached = Index(4) << 20;  // bytes that the threads' own caches hold

    // Whether all that is saved lies in vectors that begin at their own multiple of bytes, so that it can go past the caches.
    bool in_vectors() const {
        const auto whole = [](const S* at) { return reinterpret_cast<std::uintptr_t>(at) % sizeof(Vec<S>) == 0; };
        return H % W == 0 && whole(c_.gates) && whole(c_.state);
    }

    const Forward<S>& c_;
    const int G;
    const Index H, bytes_;
    const bool streams_;
};

}  // namespace glassgate::kernels::GG_ISA
