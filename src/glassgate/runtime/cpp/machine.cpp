#include "machine.hpp"

#include "cpu.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace glassgate::runtime {

namespace {

Machine there_is() {
#if defined(GLASSGATE_X86)
    if (!__builtin_cpu_supports("avx2")) return Machine::plain;
    if (!kernels::has_avx512()) return Machine::avx2;
    if (!__builtin_cpu_supports("avx512vnni")) return Machine::avx512;
#if defined(GLASSGATE_X86_BF16)
    if (kernels::has_integer_tiles()) return Machine::tiles;
#endif
    return Machine::vnni;
#else
    return Machine::plain;
#endif
}

Machine wanted() {
    const char* const name = std::getenv("GLASSGATE_ISA");
    const std::string_view isa = name == nullptr ? "" : name;
    if (isa == "baseline") return Machine::plain;
    if (isa == "avx2") return Machine::avx2;
    return isa.substr(0, 6) == "avx512" ? Machine::vnni : Machine::tiles;
}

}  // namespace

Machine machine() {
    static const Machine best = std::min(there_is(), wanted());
    return best;
}

}  // namespace glassgate::runtime
