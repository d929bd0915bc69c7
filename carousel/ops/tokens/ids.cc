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

Tensor uploaded(const Stream& stream, std::span<const int32_t> ids, const Tensor& place) {
  Memory::copy(Memory::host(), reinterpret_cast<const std::byte*>(ids.data()), *stream.memory,
               static_cast<std::byte*>(place.raw()), ids.size_bytes());
  return place;
}
Tensor uploaded(Ctx& ctx, std::span<const int32_t> ids) {
  return uploaded(ctx.stream, ids, ctx.arena.empty(Shape{static_cast<int64_t>(ids.size())}, DType::kI32));
}

void check_tokens(std::span<const int32_t> tokens, int64_t vocab_size) {
  const size_t n = first_outside(tokens, vocab_size);
  if (n == tokens.size()) return;
  fail(ErrorKind::kInput, "ops::embedding: token {} is id {}, expected 0 to {}", n, tokens[n], vocab_size - 1);
}

}  // namespace

Ids token_ids(Ctx& ctx, std::span<const int32_t> tokens, int64_t vocab_size) {
  check_tokens(tokens, vocab_size);
  return Ids(uploaded(ctx, tokens), vocab_size);
}

Ids token_ids(const Stream& stream, std::span<const int32_t> tokens, int64_t vocab_size, const Tensor& place) {
  check_tokens(tokens, vocab_size);
  return Ids(uploaded(stream, tokens, place.rows(0, static_cast<int64_t>(tokens.size()))), vocab_size);
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
