// SPDX-License-Identifier: Apache-2.0
// A language model: token table, stack, head. Immutable; memory is an argument, so one model serves many threads.
#pragma once

#include "carousel/model/stack.h"
#include "carousel/ops/tokens/ids.h"
#include "carousel/ops/weight/weight.h"

namespace carousel {
class Grads;
}

namespace carousel::model {

class Lm {
 public:
  /// Throws Error(kInput) from the config's options or the parameter source. `where` names the config in messages.
  Lm(const ModelConfig& config, ParamSource& source, const std::string& where);

  /// tokens [N] of all sequences end to end (ops::token_ids checks them) -> hidden [N, D], final norm applied. Throws
  /// kShape for tokens checked against a larger vocabulary, before any state is touched. Under a tape that drops, the
  /// embedding is dropped out too, as sublayer 0.
  Tensor forward(Ctx& ctx, const ops::Ids& tokens, const Seqs& seqs, const StateBatch* states) const;
  /// hidden [rows, D] -> logits [rows, V] f32, soft-capped where the model is.
  Tensor logits(Ctx& ctx, const Tensor& hidden) const;
  /// hidden [N, D] -> the loss of each row [N] f32, and with `grads` the gradient of scale * their sum
  /// (ops::linear_cross_entropy); logits are never formed whole.
  Tensor loss(Ctx& ctx, const Tensor& hidden, const ops::Targets& targets, Grads* grads, float scale) const;

  /// f32 operations of the blocks' cells over `rows` rows of one sequence that has seen `depth` before.
  double cell_flops(int64_t rows, int64_t depth) const { return stack_.cell_flops(rows, depth); }
  const StateLayout& state_layout() const { return stack_.state_layout(); }
  int64_t vocab_size() const { return vocab_size_; }

 private:
  int64_t vocab_size_;
  bool tied_;
  int64_t padding_token_;
  float logit_soft_cap_;
  Weight embeddings_;  // [V, D]; tied: packed, as it is the head too
  Stack stack_;
  Weight head_;  // [V, D]; empty when tied
};

}  // namespace carousel::model
