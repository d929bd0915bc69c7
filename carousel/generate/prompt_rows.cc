// SPDX-License-Identifier: Apache-2.0
// What a request is told of the rows of its prompt: the logprobs of its tokens, and the hidden state of the last one.
#include <algorithm>

#include "carousel/generate/sequence.h"

namespace carousel::generate {
namespace {

// Logits held at a time: rows x vocabulary.
constexpr int64_t kLogitElements = int64_t{1} << 23;

}  // namespace

/// hidden [T, D] of the sequence's next T rows. Each row gives the logprob of the token after it, where that is a token
/// of the prompt. The first token has one where logits were given with the request.
void Batcher::tell_prompt(const Sequence& sequence, const Tensor& hidden) {
  const Request& request = *sequence.request;
  std::vector<TokenLogprob> top;
  const auto tell = [&](size_t index, std::span<const float> logits) {
    const int32_t id = request.prompt[index];
    top_logprobs(logits, request.top_logprobs, top);
    if (request.on_prompt) request.on_prompt({static_cast<int64_t>(index), id, logprob_of(logits, id), top});
  };
  const int64_t vocab = model_.lm->vocab_size();
  const auto width = static_cast<size_t>(vocab);
  if (sequence.read == 0 && sequence.logits.defined()) tell(0, std::span(sequence.logits.f32(), width));
  const int64_t count = std::min(hidden.dim(0), static_cast<int64_t>(request.prompt.size() - sequence.read) - 1);
  const int64_t slice = std::max<int64_t>(1, kLogitElements / vocab);
  for (int64_t begin = 0; begin < count; begin += slice) {
    const int64_t end = std::min(count, begin + slice);
    const Tensor logits = runner_.logits(hidden.rows(begin, end)).to_host();  // [end - begin, V]
    for (int64_t t = begin; t < end; ++t) {
      tell(sequence.read + static_cast<size_t>(t) + 1, std::span(logits.f32() + (t - begin) * vocab, width));
    }
  }
}

/// hidden [N, D] of the forward: keeps the row of the last token of each sequence that is asked for it.
void Batcher::keep_hidden(const Tensor& hidden) {
  for (size_t r = 0; r < due_.size(); ++r) {
    if (!due_[r]->request->keep_hidden) continue;
    const Tensor row = hidden.rows(due_rows_[r], due_rows_[r] + 1).to_host().to_f32();
    due_[r]->hidden.assign(row.f32(), row.f32() + row.count());
  }
}

}  // namespace carousel::generate
