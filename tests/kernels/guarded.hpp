// What the tests of the kernels share: buffers between guard pages, drawn numbers, comparisons.
#pragma once

#include "reference.hpp"
#include "table.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include <sys/mman.h>
#include <unistd.h>

namespace guarded {

using namespace glassgate::kernels;
using reference::Index;

// Memory between two guard pages. It touches the one behind (or, every other time, the one before) as closely as the
// alignment of its elements allows.
class Guarded {
  public:
    Guarded(std::size_t bytes, bool at_end) : bytes_(bytes) {
        const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        inner_ = std::max(page, (bytes + page - 1) / page * page);
        whole_ = inner_ + 2 * page;
        base_ = static_cast<std::byte*>(mmap(nullptr, whole_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (base_ == MAP_FAILED || mprotect(base_ + page, inner_, PROT_READ | PROT_WRITE) != 0) std::abort();
        data_ = base_ + page + (at_end ? inner_ - bytes : 0);
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;
    ~Guarded() { munmap(base_, whole_); }
    std::byte* data() const { return data_; }
    void freeze() const {
        if (mprotect(base_ + (whole_ - inner_) / 2, inner_, PROT_READ) != 0) std::abort();
    }

  private:
    std::size_t bytes_, inner_ = 0, whole_ = 0;
    std::byte *base_ = nullptr, *data_ = nullptr;
};

template <class S> const Entries<S>& entries(const Table& table) {
    if constexpr (sizeof(S) == 4) return table.single;
    else return table.twice;
}

struct Draw {
    std::mt19937_64 random;
    Index whole(Index low, Index high) { return low + static_cast<Index>(random() % static_cast<std::uint64_t>(high - low + 1)); }
    bool coin() { return random() % 2 == 0; }
    reference::Doubles normal(Index count, double scale) {
        std::normal_distribution<double> normal(0, scale);
        reference::Doubles out(static_cast<std::size_t>(count));
        // Rounded to float, so that both types compute on the same numbers.
        for (double& value : out) value = static_cast<float>(normal(random));
        return out;
    }
};

template <class S> class Buffers {
  public:
    explicit Buffers(bool at_end) : at_end_(at_end) {}
    const S* in(const reference::Doubles& values, bool absent = false) {
        if (absent) return nullptr;
        S* to = reinterpret_cast<S*>(take(values.size() * sizeof(S)));
        for (std::size_t i = 0; i < values.size(); ++i) to[i] = static_cast<S>(values[i]);
        held_.back()->freeze();
        return to;
    }
    template <class B> const B* raw(const std::vector<B>& values, bool absent) {
        if (absent) return nullptr;
        B* to = reinterpret_cast<B*>(take(values.size() * sizeof(B)));
        std::copy(values.begin(), values.end(), to);
        held_.back()->freeze();
        return to;
    }
    template <class B> B* raw_out(const std::vector<B>& values) {  // that the kernel may write
        B* to = reinterpret_cast<B*>(take(values.size() * sizeof(B)));
        std::copy(values.begin(), values.end(), to);
        return to;
    }
    S* out(std::size_t count, bool absent = false) {
        if (absent) return nullptr;
        S* to = reinterpret_cast<S*>(take(count * sizeof(S)));
        std::fill_n(to, count, std::numeric_limits<S>::quiet_NaN());
        return to;
    }

  private:
    std::byte* take(std::size_t bytes) {
        held_.push_back(std::make_unique<Guarded>(bytes, at_end_));
        return held_.back()->data();
    }
    bool at_end_;
    std::vector<std::unique_ptr<Guarded>> held_;
};

inline int failures = 0;

template <class S> constexpr double epsilon = static_cast<double>(std::numeric_limits<S>::epsilon());

// Each value may be off by a share of the largest.
template <class S>
void compare(const char* what, const S* got, const reference::Doubles& want, const std::string& where, double share) {
    if (got == nullptr) return;
    double largest = 1;
    for (double value : want) largest = std::max(largest, std::abs(value));
    const double allowed = share * largest;
    for (std::size_t i = 0; i < want.size(); ++i)
        if (!(std::abs(static_cast<double>(got[i]) - want[i]) <= allowed)) {
            std::printf("%s: %s[%zu] is %.9g, expected %.9g\n", where.c_str(), what, i, static_cast<double>(got[i]), want[i]);
            ++failures;
            return;
        }
}

// All results of one kernel on one problem, as they lie in memory.
template <class S> using Bits = std::vector<std::vector<S>>;

template <class S> bool same(const Bits<S>& a, const Bits<S>& b) {
    for (std::size_t i = 0; i < a.size(); ++i)
        if (a[i].size() != b[i].size() || (a[i].size() > 0 && std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(S)) != 0))
            return false;
    return a.size() == b.size();
}

}  // namespace guarded
