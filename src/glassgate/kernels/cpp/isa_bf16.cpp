// The passes whose products take bfloat16, for one instruction set, and floats as parts of it. A file of their own: some sets
// add nothing else.
#include "passes.hpp"

namespace glassgate::kernels::GG_ISA {

extern const Passes<float> bf16_passes;
const Passes<float> bf16_passes = passes<float, Bf16>;

#if defined(__AMX_BF16__)
void backward_by_parts(const Backward<float>& call) { BackwardPass<float, float, Parts>(call).run(); }
#endif

}  // namespace glassgate::kernels::GG_ISA
