// SPDX-License-Identifier: Apache-2.0
// A look-up touches one row of the table per token, which Weight reads in either layout.
#include "carousel/ops/tokens/embedding_cpu.h"

#include "carousel/core/parallel.h"

namespace carousel::cpu::CAROUSEL_ISA {

void embedding(const Stream& stream, const ops::EmbeddingArgs& args) {
  parallel_for(*stream.pool, args.rows,
               [&](int64_t n) { args.table->read_rows(args.tokens[n], 1, args.x.f32() + n * args.x.stride); });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
