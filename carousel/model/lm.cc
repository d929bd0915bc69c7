// SPDX-License-Identifier: Apache-2.0
// A language model: embedding, stack, head, and the loss of training.
#include "carousel/model/lm.h"

#include "carousel/ops/dropout/dropout.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/tape.h"
#include "carousel/ops/tokens/embedding.h"
#include "carousel/ops/tokens/linear_cross_entropy.h"

namespace carousel::model {

Lm::Lm(const ModelConfig& config, ParamSource& source, const std::string& where)
    : vocab_size_(config.vocab_size),
      tied_(config.tie_word_embeddings),
      padding_token_(config.padding_token),
      logit_soft_cap_(static_cast<float>(config.logit_soft_cap)),
      embeddings_(Params(source, "")
                      .table("embeddings", config.vocab_size, config.hidden_size,
                             tied_ ? Weight::Layout::kPanels : Weight::Layout::kRows, Init::small(config.hidden_size))),
      stack_(config, Params(source, ""), where) {
  if (tied_) return;
  head_ =
      Params(source, "").projection("lm_head", config.vocab_size, config.hidden_size, Init::small(config.hidden_size));
}

Tensor Lm::forward(Ctx& ctx, const ops::Ids& tokens, const Seqs& seqs, const StateBatch* states) const {
  Tensor x = ops::embedding(ctx, tokens, embeddings_, padding_token_);
  if (ctx.tape != nullptr && ctx.tape->dropout() != nullptr) x = ops::dropout(ctx, x, *ctx.tape->dropout(), 0);
  return stack_.forward(ctx, x, seqs, states);
}

Tensor Lm::logits(Ctx& ctx, const Tensor& hidden) const {
  const Tensor logits = ops::linear(ctx, hidden, {tied_ ? &embeddings_ : &head_});
  return logit_soft_cap_ > 0 ? ops::soft_cap(ctx, logits, logit_soft_cap_, ctx.numerics.logit_soft_cap) : logits;
}

Tensor Lm::loss(Ctx& ctx, const Tensor& hidden, const ops::Targets& targets, Grads* grads, float scale) const {
  const ops::Head head = {tied_ ? embeddings_ : head_, logit_soft_cap_};
  return ops::linear_cross_entropy(ctx, hidden, head, targets, grads, scale);
}

}  // namespace carousel::model
