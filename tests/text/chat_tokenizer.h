// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json of a chat model in small: bytes, a few merges, ChatML's control tokens, and a control token that its
// file does not call special.
#pragma once

#include <string>

#include "carousel/core/json.h"
#include "carousel/text/unicode.h"

namespace carousel::text {

constexpr int32_t kStart = 256;      // <|startoftext|>
constexpr int32_t kTurnStart = 257;  // <|im_start|>
constexpr int32_t kTurnEnd = 258;    // <|im_end|>
constexpr int32_t kToolCall = 259;   // <|tool_call_start|>
constexpr int64_t kChatVocabSize = 263;

inline Json chat_tokenizer_json() {
  Json vocab = Json::object();
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    vocab[to_byte_alphabet(std::string_view(&byte, 1))] = b;
  }
  Json added = Json::array();
  const auto add = [&](int32_t id, const char* content, bool special) {
    vocab[content] = id;
    added.push_back({{"id", id}, {"content", content}, {"special", special}});
    for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) added.back()[flag] = false;
  };
  add(kStart, "<|startoftext|>", true);
  add(kTurnStart, "<|im_start|>", true);
  add(kTurnEnd, "<|im_end|>", true);
  add(kToolCall, "<|tool_call_start|>", false);
  vocab["us"] = 260;
  vocab["er"] = 261;
  vocab["user"] = 262;
  return {{"added_tokens", added},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"u s", "e r", "us er"}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"post_processor", Json::parse(R"({"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "special_tokens": {"<|startoftext|>": {"id": "<|startoftext|>", "ids": [256], "tokens": ["<|startoftext|>"]}}})")}};
}

}  // namespace carousel::text
