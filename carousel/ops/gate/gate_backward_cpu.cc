// SPDX-License-Identifier: Apache-2.0
// Gradients of the elementwise gates: bound by memory.
#include "carousel/cpu/divide.h"
#include "carousel/ops/gate/gate_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {

void relu_backward(const Stream& stream, const ops::ReluBackwardArgs& args) {
  parallel_ranges(stream, args.rows, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const x_n = args.x.f32() + n * args.x.stride;
      const float* const d_n = args.d.f32() + n * args.d.stride;
      float* const d_x_n = args.d_x.f32() + n * args.d_x.stride;
      for (int64_t j = 0; j < args.width; ++j) d_x_n[j] = x_n[j] > 0 ? d_n[j] : 0.0f;
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
