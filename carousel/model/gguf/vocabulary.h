// SPDX-License-Identifier: Apache-2.0
// What the keys "tokenizer.ggml.*" say of a tokenizer, between a GGUF file and a tokenizer.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/json.h"

namespace carousel::model {

struct GgmlVocabulary {
  enum Type : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  std::string model;  // "gpt2" (byte-level BPE) or "llama" (SentencePiece's, by scores)
  std::string pre;    // of gpt2: the name of its pre-tokenizer
  std::vector<std::string> tokens;
  std::vector<int64_t> types;       // as tokens
  std::vector<float> scores;        // as tokens, or empty
  std::vector<std::string> merges;  // "a b" in order of rank; llama: empty, they follow from the scores
  std::optional<int64_t> bos, eos, unknown;
  std::optional<bool> add_bos, add_eos, add_space_prefix;  // absent: as the model usually has it
};

/// As a tokenizer.json. Throws Error(kInput) naming the key.
Json tokenizer_json(const GgmlVocabulary& vocabulary, const std::string& where);

/// The name whose words, normalizer and ignore_merges are those of a byte-level tokenizer.json; "gpt-2" and false in
/// `exact` where there is none.
std::string pre_tokenizer_name(const Json& tokenizer, bool* exact);

/// The merges SentencePiece's scores amount to, "a b" in order of rank, as the reference conversion lists them: best
/// score first; of one token's several the longer first part first.
std::vector<std::string> merges_of_scores(const GgmlVocabulary& vocabulary, const std::string& where);

/// "[PAD7]" as token 7: stands for an id without a token.
bool is_hole(const GgmlVocabulary& vocabulary, size_t id);

/// The parts of a tokenizer.json that decide on ids and text, in one spelling; equal ones are the same tokenizer.
Json canonical_tokenizer(const Json& tokenizer);

}  // namespace carousel::model
