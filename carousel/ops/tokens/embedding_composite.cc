// SPDX-License-Identifier: Apache-2.0
// A look-up touches one row of the table per token, which a Weight can read in any form: no kernel of its own.
#include "carousel/ops/tokens/embedding_cpu.h"

namespace carousel::cpu {

void embedding(const Stream& stream, const ops::EmbeddingArgs& args) {
  parallel_for(*stream.pool, args.rows,
               [&](int64_t n) { args.table->read_rows(args.tokens[n], 1, args.x.f32() + n * args.x.stride); });
}

}  // namespace carousel::cpu
