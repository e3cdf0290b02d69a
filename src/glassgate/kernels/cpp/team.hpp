// A team of threads that works on one sequence from its first step to its last.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace glassgate::kernels {

// A sense-reversing barrier. It spins, because a step of a small network lasts about a microsecond; after a while it
// gives the processor away, so that a machine with more threads than cores goes on.
class Barrier {
  public:
    explicit Barrier(int threads) : threads_(threads), waiting_(threads) {}
    void wait();

  private:
    const int threads_;
    alignas(64) std::atomic<int> waiting_;
    alignas(64) std::atomic<unsigned> round_{0};
};

struct Team {
    int rank = 0;
    int size = 1;
    Barrier* barrier = nullptr;
    __attribute__((always_inline)) void wait() const {  // never a copy of its own, compiled for one instruction set
        if (size > 1) barrier->wait();
    }
};

// Calls body(argument, team) on `threads` threads at most, and returns when all are done. The body must not throw.
void run_team(int threads, void (*body)(void*, const Team&), void* argument);

// How many threads a call may use: what set_threads said, else what OpenMP says now.
int threads();
void set_threads(int count);  // 0: follow OpenMP again

// Scratch memory of the calling thread, aligned to 64 bytes and kept for its next call. Throws std::bad_alloc.
std::byte* scratch(std::size_t bytes);

// Tells the system that all of a large output is about to be written, so that fresh memory comes in large pages. Null and
// small ones are left alone; what is computed does not depend on it.
void expect_writes(void* data, std::size_t bytes);

}  // namespace glassgate::kernels
