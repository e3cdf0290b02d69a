// What the machine can do, where the compiler's own questions are not enough.
#pragma once

#if defined(GLASSGATE_X86_BF16)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace glassgate::kernels {

#if defined(GLASSGATE_X86)
inline bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
}
#endif

#if defined(GLASSGATE_X86_BF16)
// Whether there are tile registers and, by its bit of the processor's answer, a kind of products on them, and the system lets
// this process use them: Linux wants to be asked once (arch_prctl), since they make a thread's saved state 8 KB larger.
inline bool has_tiles(int products) {
#if defined(__linux__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return (d >> products & 1) != 0 && (d >> 24 & 1) != 0 && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}
inline bool has_matrix_tiles() { return has_tiles(22); }   // bfloat16
inline bool has_integer_tiles() { return has_tiles(25); }  // int8
#endif

}  // namespace glassgate::kernels
