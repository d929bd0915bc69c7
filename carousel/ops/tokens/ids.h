// SPDX-License-Identifier: Apache-2.0
// Integers that index a table, checked at the edge. An op cannot check them: they may lie in a device's memory, which
// to read is to wait for, and their values would decide what runs. So the ops that look something up take Ids, which
// are only made by a check of the host's values.
#pragma once

#include <cstdint>
#include <span>
#include <utility>

#include "carousel/ops/ctx.h"

namespace carousel::ops {

class Ids {
 public:
  int64_t count() const { return values_.dim(0); }
  int64_t bound() const { return bound_; }          // each is in [0, bound)
  const Tensor& tensor() const { return values_; }  // [N] i32, in the stream's memory

 private:
  friend Ids token_ids(Ctx& ctx, std::span<const int32_t> tokens, int64_t vocab_size);
  friend Ids token_ids(const Stream& stream, std::span<const int32_t> tokens, int64_t vocab_size, const Tensor& place);
  friend Ids target_ids(Ctx& ctx, std::span<const int32_t> targets, int64_t vocab_size);
  Ids(Tensor values, int64_t bound) : values_(std::move(values)), bound_(bound) {}

  Tensor values_;
  int64_t bound_;
};

/// What training compares logits with: a token per row, or -1 where a row has none.
class Targets {
 public:
  int64_t count() const { return values_.dim(0); }
  int64_t bound() const { return bound_; }          // each is in [-1, bound)
  const Tensor& tensor() const { return values_; }  // [N] i32, in the stream's memory

 private:
  friend Targets training_targets(Ctx& ctx, std::span<const int32_t> targets, int64_t vocab_size);
  Targets(Tensor values, int64_t bound) : values_(std::move(values)), bound_(bound) {}

  Tensor values_;
  int64_t bound_;
};

/// Tokens that a table of `vocab_size` rows is asked for, brought to the stream's memory. Throws kInput naming the
/// first one outside.
Ids token_ids(Ctx& ctx, std::span<const int32_t> tokens, int64_t vocab_size);
/// The same, brought to the first elements of `place` [at least N] i32.
Ids token_ids(const Stream& stream, std::span<const int32_t> tokens, int64_t vocab_size, const Tensor& place);
/// The same for the tokens that logits of `vocab_size` columns are compared with.
Ids target_ids(Ctx& ctx, std::span<const int32_t> targets, int64_t vocab_size);
/// The same for targets of training, which may be -1.
Targets training_targets(Ctx& ctx, std::span<const int32_t> targets, int64_t vocab_size);

}  // namespace carousel::ops
