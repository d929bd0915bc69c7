// SPDX-License-Identifier: Apache-2.0
// The JSON of completions and chats, whole and in pieces.
#include <fmt/format.h>

#include "carousel/serve/generation.h"

namespace carousel::serve {

Json Generation::head(bool chunk) const {
  const char* const object = wish_.form == Form::kCompletion ? "text_completion"
                             : chunk                         ? "chat.completion.chunk"
                                                             : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", served_.name}, {"choices", Json::array()}};
}

Json Generation::extras(const Choice& choice) const {
  Json out = {{"seed", wish_.request.seed}};
  if (!choice.state.empty()) out["state"] = choice.state;
  return out;
}

Json Generation::whole_choice(size_t index) const {
  const Choice& choice = choices_[index];
  Json out = {{"index", index},
              {"logprobs", wish_.request.logprobs ? logprobs(choice, 0) : Json()},
              {"finish_reason", choice.finish}};
  if (wish_.form == Form::kChat) {
    out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  } else {
    const std::string echo = wish_.echo ? prompts_[index / static_cast<size_t>(wish_.request.samples)].text : "";
    out["text"] = echo + choice.text;
  }
  if (!choice.state.empty()) out["state"] = choice.state;
  return out;
}

Json Generation::chunk_choice(size_t index, const std::string& text, bool ends) {
  Choice& choice = choices_[index];
  Json out = {{"index", index}, {"finish_reason", ends ? Json(choice.finish) : Json()}};
  out["logprobs"] = wish_.request.logprobs && !ends ? logprobs(choice, choice.told) : Json();
  choice.told = choice.logged.size();
  if (wish_.form == Form::kChat) {
    out["delta"] = ends ? Json::object() : Json{{"content", text}};
  } else {
    out["text"] = text;
  }
  if (ends && !choice.state.empty()) out["state"] = choice.state;
  return out;
}

std::string Generation::token_text(int32_t id) const {
  return served_.model.tokenizer ? served_.model.text().decode_bytes(std::span(&id, 1)) : std::to_string(id);
}

/// Of the tokens from `from` on, in the form of the endpoint.
Json Generation::logprobs(const Choice& choice, size_t from) const {
  const auto bytes_of = [](const std::string& text) {
    Json bytes = Json::array();
    for (const char c : text) bytes.push_back(static_cast<int>(static_cast<unsigned char>(c)));
    return bytes;
  };
  Json content = Json::array(), tokens = Json::array(), values = Json::array(), tops = Json::array(),
       offsets = Json::array();
  size_t offset = 0;
  for (size_t i = 0; i < choice.logged.size(); ++i) {
    const LoggedToken& token = choice.logged[i];
    const std::string text = token_text(token.id);
    if (i >= from && wish_.form == Form::kChat) {
      Json top = Json::array();
      for (const generate::TokenLogprob& other : token.top) {
        const std::string other_text = token_text(other.id);
        top.push_back({{"token", other_text}, {"logprob", other.logprob}, {"bytes", bytes_of(other_text)}});
      }
      content.push_back(
          {{"token", text}, {"logprob", token.logprob}, {"bytes", bytes_of(text)}, {"top_logprobs", top}});
    } else if (i >= from) {
      Json top = Json::object();
      for (const generate::TokenLogprob& other : token.top) top[token_text(other.id)] = other.logprob;
      tokens.push_back(text);
      values.push_back(token.logprob);
      tops.push_back(top);
      offsets.push_back(offset);
    }
    offset += text.size();
  }
  if (wish_.form == Form::kChat) return {{"content", content}, {"refusal", nullptr}};
  return {{"tokens", tokens}, {"token_logprobs", values}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

Json Generation::usage() const {
  int64_t prompt = 0, cached = 0, generated = 0;
  for (const Prompt& one : prompts_) {
    prompt += static_cast<int64_t>(one.tokens.size()) + one.cached;
    cached += one.cached + one.hit;
  }
  for (const Choice& choice : choices_) generated += choice.tokens;
  return {{"prompt_tokens", prompt},
          {"completion_tokens", generated},
          {"total_tokens", prompt + generated},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

}  // namespace carousel::serve
