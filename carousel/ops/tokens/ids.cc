// SPDX-License-Identifier: Apache-2.0
// The checks of ids, and their way to the stream's memory. The messages name the op that would have read outside.
#include "carousel/ops/tokens/ids.h"

#include "carousel/core/error.h"

namespace carousel::ops {
namespace {

/// The place of the first id outside [least, bound); ids.size() if there is none.
size_t first_outside(std::span<const int32_t> ids, int64_t bound, int32_t least = 0) {
  size_t n = 0;
  while (n < ids.size() && ids[n] >= least && ids[n] < bound) ++n;
  return n;
}

Tensor uploaded(Ctx& ctx, std::span<const int32_t> ids) {
  const Tensor out = ctx.arena.empty(Shape{static_cast<int64_t>(ids.size())}, DType::kI32);
  Memory::copy(Memory::host(), reinterpret_cast<const std::byte*>(ids.data()), *ctx.stream.memory,
               static_cast<std::byte*>(out.raw()), ids.size_bytes());
  return out;
}

}  // namespace

Ids token_ids(Ctx& ctx, std::span<const int32_t> tokens, int64_t vocab_size) {
  if (const size_t n = first_outside(tokens, vocab_size); n < tokens.size()) {
    fail(ErrorKind::kInput, "ops::embedding: token {} is id {}, expected 0 to {}", n, tokens[n], vocab_size - 1);
  }
  return Ids(uploaded(ctx, tokens), vocab_size);
}

Ids target_ids(Ctx& ctx, std::span<const int32_t> targets, int64_t vocab_size) {
  if (const size_t n = first_outside(targets, vocab_size); n < targets.size()) {
    fail(ErrorKind::kInput, "ops::cross_entropy: target {} is {}, expected 0 to {}", n, targets[n], vocab_size - 1);
  }
  return Ids(uploaded(ctx, targets), vocab_size);
}

Targets training_targets(Ctx& ctx, std::span<const int32_t> targets, int64_t vocab_size) {
  if (const size_t n = first_outside(targets, vocab_size, -1); n < targets.size()) {
    fail(ErrorKind::kInput, "ops::linear_cross_entropy: target {} is {}, expected -1 to {}", n, targets[n],
         vocab_size - 1);
  }
  return Targets(uploaded(ctx, targets), vocab_size);
}

}  // namespace carousel::ops
