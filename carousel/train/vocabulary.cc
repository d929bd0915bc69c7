// SPDX-License-Identifier: Apache-2.0
// The vocabulary of a model, and the hash that tells one tokenizer from another.
#include "carousel/train/vocabulary.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <span>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/model/start_token.h"

namespace carousel::train {
namespace {

constexpr int64_t kBytes = 256;
constexpr const char* kEndOfText = "<|endoftext|>";
constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;

// The file is hashed where there is one, since it decides everything; else (GGUF) the tokens.
uint64_t hash_of(const std::string& path, const text::Tokenizer& tokenizer) {
  const std::string file = model::resolve(path).folder + "/tokenizer.json";
  if (file_exists(file)) {
    const std::string json = read_text_file(file, kMaxTokenizerBytes);
    return XXH3_64bits(json.data(), json.size());
  }
  uint64_t hash = static_cast<uint64_t>(tokenizer.summary().merges);
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string token = tokenizer.token_text(id) + (tokenizer.is_special(id) ? "\x01" : "\x02");
    hash = XXH3_64bits_withSeed(token.data(), token.size(), hash);
  }
  return hash;
}

std::optional<int32_t> end_of_documents(const model::Model& model) {
  const std::optional<int32_t> id = model.text().id_of(kEndOfText);
  if (id && model.text().is_special(*id)) return id;
  if (model.end_tokens.empty()) return std::nullopt;
  return model.end_tokens.front();
}

void use_bytes(Vocabulary& out) {
  out.tokenizer = text::Tokenizer::bytes();
  out.bytes = true;
  out.hash = kBytes;
  out.name = "bytes";
  out.turns = [](bool) -> model::ChatTurns {
    fail(ErrorKind::kInput, "the model works on bytes and has no turns, expected a tokenizer with those of ChatML");
  };
}

}  // namespace

Vocabulary vocabulary_of(const std::string& path, const model::Model& model) {
  Vocabulary out;
  out.size = model.config.vocab_size;
  if (!model.tokenizer || model.tokenizer->summary().kind == "bytes") {
    if (out.size >= kBytes) {
      use_bytes(out);
    } else {
      out.missing = model.missing_tokenizer;
      out.name = "none";
    }
    return out;
  }
  out.tokenizer = model.tokenizer;
  const text::TokenizerSummary summary = out.tokenizer->summary();
  if (out.tokenizer->encode("").empty()) out.start = model::start_token(model);
  out.end = end_of_documents(model);
  const int32_t ends[2] = {out.start.value_or(-1), out.end.value_or(-1)};
  out.hash = XXH3_64bits_withSeed(ends, sizeof ends, hash_of(path, *out.tokenizer));
  out.name = fmt::format("{} of {} ids ({:08x})", summary.kind, summary.vocab_size, out.hash >> 32);
  out.turns = [path, &model](bool with_system) { return model::find_turns(path, model, with_system, false); };
  return out;
}

}  // namespace carousel::train
