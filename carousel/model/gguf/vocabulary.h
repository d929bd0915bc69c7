// SPDX-License-Identifier: Apache-2.0
// A tokenizer as the keys "tokenizer.ggml.*" describe it, between a GGUF file and a tokenizer.json.
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
  std::string pre;    // with "gpt2": the name of its pre-tokenizer
  std::vector<std::string> tokens;
  std::vector<int64_t> types;       // [tokens] GGUF's type of each
  std::vector<float> scores;        // [tokens] score of each, or empty
  std::vector<std::string> merges;  // "a b" in order of rank; empty with "llama", where they follow from the scores
  std::optional<int64_t> bos, eos, unknown;
  std::optional<bool> add_bos, add_eos, add_space_prefix;  // absent: the model's usual value
};

/// The vocabulary as a tokenizer.json. Throws Error(kInput) naming the key.
Json tokenizer_json(const GgmlVocabulary& vocabulary, const std::string& where);

/// GGUF's name for the pre-tokenizer, normalizer and ignore_merges of a byte-level tokenizer.json. Where GGUF has no
/// name, returns "gpt-2" and sets `exact` to false.
std::string pre_tokenizer_name(const Json& tokenizer, bool* exact);

/// The merges that SentencePiece's scores imply, "a b" in order of rank, as the reference conversion lists them: best
/// score first; among one token's merges the longer first part first.
std::vector<std::string> merges_of_scores(const GgmlVocabulary& vocabulary, const std::string& where);

/// Whether the token stands for an id without a token, as "[PAD7]" does at id 7.
bool is_hole(const GgmlVocabulary& vocabulary, size_t id);

/// The parts of a tokenizer.json that decide on ids and text, in one spelling: tokenizers that give equal results here
/// are the same.
Json canonical_tokenizer(const Json& tokenizer);

}  // namespace carousel::model
