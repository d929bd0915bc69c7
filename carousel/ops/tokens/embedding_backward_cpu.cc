// SPDX-License-Identifier: Apache-2.0
// The gradient of a table. A thread has columns of it and goes through all rows in order, so no two add to one element.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/tokens/embedding_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {

void embedding_backward(const Stream& stream, const ops::EmbeddingBackwardArgs& args) {
  constexpr int64_t kColumns = 64;  // a few lines of every row
  const int64_t groups = (args.D + kColumns - 1) / kColumns;
  parallel_ranges(stream, groups, args.rows * kColumns, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumns, last = end * kColumns < args.D ? end * kColumns : args.D;
    for (int64_t n = 0; n < args.rows; ++n) {
      if (args.tokens[n] == args.padding) continue;
      const float* const from = args.d_x.f32() + n * args.d_x.stride;
      float* const to = args.d_table + args.tokens[n] * args.D;
      for (int64_t j = first; j < last; ++j) to[j] += from[j];
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
