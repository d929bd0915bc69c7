// SPDX-License-Identifier: Apache-2.0
// The keys "tokenizer.*" of a GGUF file to a tokenizer.json.
#include <fmt/format.h>

#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/vocabulary.h"

namespace carousel::model {
namespace {

constexpr const char* kWhole = "tokenizer.huggingface.json";

const formats::GgufArray& need_array(const formats::GgufMetadata& metadata, const char* key, const std::string& where) {
  const formats::GgufArray* array = metadata.array(key);
  if (array != nullptr) return *array;
  if (metadata.values.contains(key)) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected an array", where, key, brief(metadata.values.at(key)));
  }
  fail(ErrorKind::kInput, "{}: \"{}\" is missing", where, key);
}

const formats::GgufArray* find_array(const formats::GgufMetadata& metadata, const char* key, const std::string& where) {
  const bool there = metadata.array(key) != nullptr || metadata.values.contains(key);
  return there ? &need_array(metadata, key, where) : nullptr;
}

template <class T>
void check_size(const std::vector<T>& list, size_t tokens, const char* key, const std::string& where) {
  if (list.size() == tokens) return;
  fail(ErrorKind::kInput, "{}: \"{}\" has {} elements, expected one for each of the {} tokens", where, key, list.size(),
       tokens);
}

std::optional<bool> flag(Fields& fields, const char* key) {
  if (!fields.has(key)) return {};
  return fields.boolean(key);
}

std::optional<int64_t> id(Fields& fields, const char* key, size_t tokens, std::optional<int64_t> usual) {
  if (!fields.has(key)) return usual && *usual < static_cast<int64_t>(tokens) ? usual : std::nullopt;
  return fields.integer(key, 0, static_cast<int64_t>(tokens) - 1);
}

void check_byte_tokens(const GgmlVocabulary& vocabulary, const std::string& where) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.types[i] != GgmlVocabulary::kByte) continue;
    const std::string& token = vocabulary.tokens[i];
    const bool named = token.size() == 6 && token.starts_with("<0x") && token[5] == '>' &&
                       kHex.find(token[3]) != kHex.npos && kHex.find(token[4]) != kHex.npos;
    if (named) continue;
    fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.tokens\" has \"{}\" as {}, a byte token, expected <0x00> to <0xFF>",
         where, token.substr(0, 60), i);
  }
}

GgmlVocabulary read_vocabulary(const formats::GgufMetadata& metadata, const std::string& where) {
  Fields fields(metadata.values, where);
  GgmlVocabulary out;
  out.model = fields.choice("tokenizer.ggml.model", {"gpt2", "llama"}, {});
  const bool llama = out.model == "llama";
  if (!llama) out.pre = fields.string("tokenizer.ggml.pre");
  for (const std::string_view token : need_array(metadata, "tokenizer.ggml.tokens", where).strings()) {
    out.tokens.emplace_back(token);
  }
  const size_t count = out.tokens.size();
  if (count == 0) fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.tokens\" is empty", where);
  out.types.assign(count, GgmlVocabulary::kNormal);
  if (const formats::GgufArray* types = find_array(metadata, "tokenizer.ggml.token_type", where))
    out.types = types->integers();
  check_size(out.types, count, "tokenizer.ggml.token_type", where);
  for (const int64_t type : out.types) {
    if (type >= 0 && type <= 6) continue;
    fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.token_type\" has a {}, expected 0 to 6", where, type);
  }
  const formats::GgufArray* merges = find_array(metadata, "tokenizer.ggml.merges", where);
  if (merges != nullptr || !llama) {
    for (const std::string_view merge : need_array(metadata, "tokenizer.ggml.merges", where).strings()) {
      out.merges.emplace_back(merge);
    }
  }
  if (llama) {
    out.scores = need_array(metadata, "tokenizer.ggml.scores", where).numbers();
    check_size(out.scores, count, "tokenizer.ggml.scores", where);
    for (const float score : out.scores) {
      if (!std::isfinite(score)) fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.scores\" has a {}", where, score);
    }
    check_byte_tokens(out, where);
    if (fields.boolean("tokenizer.ggml.remove_extra_whitespaces", false)) {
      fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.remove_extra_whitespaces\" is true, expected false", where);
    }
    if (metadata.array("tokenizer.ggml.precompiled_charsmap") != nullptr) {
      fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.precompiled_charsmap\" is not supported", where);
    }
  }
  using Id = std::optional<int64_t>;
  out.bos = id(fields, "tokenizer.ggml.bos_token_id", count, llama ? Id(1) : Id());
  out.eos = id(fields, "tokenizer.ggml.eos_token_id", count, llama ? Id(2) : Id());
  out.unknown = id(fields, "tokenizer.ggml.unknown_token_id", count, llama ? Id(0) : Id());
  out.add_bos = flag(fields, "tokenizer.ggml.add_bos_token");
  out.add_eos = flag(fields, "tokenizer.ggml.add_eos_token");
  out.add_space_prefix = flag(fields, "tokenizer.ggml.add_space_prefix");
  return out;
}

}  // namespace

std::string gguf_tokenizer(const formats::GgufMetadata& metadata, const std::string& where) {
  Fields fields(metadata.values, where);
  if (fields.has(kWhole)) return fields.string(kWhole);
  if (!fields.has("tokenizer.ggml.model") || fields.string("tokenizer.ggml.model") == "no_vocab") return "";
  const GgmlVocabulary vocabulary = read_vocabulary(metadata, where);
  try {
    return tokenizer_json(vocabulary, where).dump();
  } catch (const Json::exception&) {
    fail(ErrorKind::kInput,
         "{}: \"tokenizer.ggml.tokens\" or \"tokenizer.ggml.merges\" has text that is not valid UTF-8", where);
  }
}

}  // namespace carousel::model
