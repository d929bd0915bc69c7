// SPDX-License-Identifier: Apache-2.0
// A batcher of one sequence.
#include "carousel/cli/train_sample.h"

#include "carousel/cli/prompt.h"
#include "carousel/core/error.h"
#include "carousel/generate/batcher.h"

namespace carousel::cli {

std::vector<int32_t> sample_prompt(const model::Model& model, const std::string& prompt) {
  std::vector<int32_t> ids = model.text().encode(prompt, true, true);
  if (ids.empty()) ids.push_back(start_token(model));
  for (const int32_t id : ids) {
    if (id < model.lm->vocab_size()) continue;
    fail(ErrorKind::kInput, "--sample-prompt: token {} is outside the model's vocabulary of {}", id,
         model.lm->vocab_size());
  }
  return ids;
}

std::string continue_text(const model::Model& model, const Stream& stream, const std::string& prompt, int64_t tokens) {
  std::string text, error;
  generate::Request request;
  request.prompt = sample_prompt(model, prompt);
  request.sampler.temp = 0;
  request.max_tokens = tokens;
  request.on_token = [&text](const generate::Emitted& token) {
    text += token.text;
    return true;
  };
  request.on_finish = [&](const generate::Finished& finished) {
    text += finished.text;
    error = finished.error;
  };
  generate::Batcher batcher(model, stream);
  batcher.submit(std::move(request));
  while (batcher.live() > 0) batcher.tick();
  if (!error.empty()) fail(ErrorKind::kInput, "--sample-prompt: {}", error);
  return text;
}

}  // namespace carousel::cli
