// SPDX-License-Identifier: Apache-2.0
// A small mixed model with drawn weights that works on bytes, and what it says to a request alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "carousel/cpu/isa.h"
#include "carousel/generate/batcher.h"
#include "carousel/model/params.h"

namespace carousel::serve {

/// What came of one sample.
struct Said {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::vector<float> prompt;  // logprobs of the prompt; of the first sample alone
  std::vector<float> hidden;
  std::string text;
  generate::StopReason reason = generate::StopReason::kFailed;
  bool operator==(const Said&) const = default;
};

struct SmallModel {
  explicit SmallModel(const Json& layers = {"mlstm", "conv", "full_attention"})
      : pool(1), stream{&Memory::host(), cpu::best_isa(), &pool} {
    const Json config = {{"model_type", "carousel"},
                         {"vocab_size", 256},
                         {"hidden_size", 32},
                         {"tie_word_embeddings", false},
                         {"layer_types", layers},
                         {"mlstm_config", {{"num_heads", 2}}},
                         {"attention_config", {{"num_heads", 4}, {"num_kv_heads", 2}}}};
    model.config = model::parse_config(config, "small");
    model::DrawnParams params(stream, 3, DType::kF32);
    model.lm = std::make_unique<model::Lm>(model.config, params, "small");
    model.tokenizer = text::Tokenizer::bytes();
    model.fingerprint = "small";
  }

  /// Every sample of a request that has the model to itself.
  std::vector<Said> alone(generate::Request request) const {
    std::vector<Said> all(static_cast<size_t>(request.samples));
    request.on_token = [&](const generate::Emitted& token) {
      Said& said = all[static_cast<size_t>(token.sample)];
      said.ids.push_back(token.id);
      said.logprobs.push_back(token.logprob);
      said.text += token.text;
      return true;
    };
    request.on_prompt = [&](const generate::PromptToken& token) { all[0].prompt.push_back(token.logprob); };
    request.on_finish = [&](generate::Finished& finished) {
      all[static_cast<size_t>(finished.sample)].hidden = std::move(finished.hidden);
      all[static_cast<size_t>(finished.sample)].text += finished.text;
      all[static_cast<size_t>(finished.sample)].reason = finished.reason;
    };
    generate::generate(model, stream, std::move(request));
    return all;
  }

  ThreadPool pool;
  Stream stream;
  model::Model model;
};

}  // namespace carousel::serve
