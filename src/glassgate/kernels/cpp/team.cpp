#include "team.hpp"

#include <cstdint>
#include <cstdlib>
#include <new>

#include <sched.h>
#include <sys/mman.h>
#if defined(GLASSGATE_STD_THREADS)
#include <thread>
#include <vector>
#else
#include <omp.h>
#endif

namespace glassgate::kernels {

namespace {

std::atomic<int> wanted_threads{0};
constexpr std::size_t large_page = std::size_t(2) << 20;

void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

struct Block {
    std::byte* data = nullptr;
    std::size_t size = 0;
    ~Block() { std::free(data); }
};

}  // namespace

void Barrier::wait() {
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (waiting_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        waiting_.store(threads_, std::memory_order_relaxed);
        round_.store(round + 1, std::memory_order_release);
        return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins) {
        if (spins < 20000) pause_processor();
        else sched_yield();
    }
}

#if defined(GLASSGATE_STD_THREADS)
void run_team(int threads, void (*body)(void*, const Team&), void* argument) {
    if (threads <= 1) return body(argument, Team{});
    Barrier barrier(threads);
    std::vector<std::thread> helpers;
    for (int rank = 1; rank < threads; ++rank)
        helpers.emplace_back([&, rank] { body(argument, Team{rank, threads, &barrier}); });
    body(argument, Team{0, threads, &barrier});
    for (std::thread& helper : helpers) helper.join();
}

int threads() { return wanted_threads > 0 ? wanted_threads.load() : 1; }
#else
void run_team(int threads, void (*body)(void*, const Team&), void* argument) {
    if (threads <= 1) return body(argument, Team{});
    Barrier* shared = nullptr;
    alignas(Barrier) std::byte place[sizeof(Barrier)];
#pragma omp parallel num_threads(threads)
    {
        // OpenMP may give fewer threads than were asked for.
#pragma omp single
        shared = new (place) Barrier(omp_get_num_threads());
        body(argument, Team{omp_get_thread_num(), omp_get_num_threads(), shared});
    }
    shared->~Barrier();
}

int threads() { return wanted_threads > 0 ? wanted_threads.load() : omp_get_max_threads(); }
#endif

void set_threads(int count) { wanted_threads = count; }

void expect_writes(void* data, std::size_t bytes) {
    const auto begin = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t first = (begin + large_page - 1) / large_page * large_page;
    const std::uintptr_t last = (begin + bytes) / large_page * large_page;
    if (data != nullptr && last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

std::byte* scratch(std::size_t bytes) {
    thread_local Block block;
    if (block.size < bytes) {
        const bool large = bytes >= large_page;
        const std::size_t unit = large ? large_page : 64;
        const std::size_t size = (bytes + bytes / 4 + unit - 1) / unit * unit;
        std::free(block.data);
        block = {};
        block.data = static_cast<std::byte*>(std::aligned_alloc(unit, size));
        if (block.data == nullptr) throw std::bad_alloc();
        block.size = size;
        expect_writes(block.data, size);
    }
    return block.data;
}

}  // namespace glassgate::kernels
