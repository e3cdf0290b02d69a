// Which instructions the runtime's products take.
#pragma once

namespace glassgate::runtime {

// Each has what those before it have: AVX-512 (x86-64-v4), sums of products of whole numbers in one instruction, tile registers.
enum class Machine { plain, avx2, avx512, vnni, tiles };

// The best that there is, up to what GLASSGATE_ISA names: the kernels have refused what it must not be.
Machine machine();

}  // namespace glassgate::runtime
