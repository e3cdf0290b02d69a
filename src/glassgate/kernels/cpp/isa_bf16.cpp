// The passes whose products take bfloat16, for one instruction set. A file of their own: some sets add nothing else.
#include "passes.hpp"

namespace glassgate::kernels::GG_ISA {

extern const Passes<float> bf16_passes;
const Passes<float> bf16_passes = passes<float, Bf16>;

}  // namespace glassgate::kernels::GG_ISA
