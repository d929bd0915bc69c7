// SPDX-License-Identifier: Apache-2.0
// The parts of a tokenizer between GGUF's keys and tokenizer.json: vocabularies, merges, scores, and the pre-tokenizers
// that GGUF has names for.
#include "carousel/model/gguf/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxScoredToken = 512;  // bytes: cutting a token at every place takes the square of its length
constexpr const char* kSpace = "\xE2\x96\x81";

// The patterns of published tokenizers: GPT-2's is that of ByteLevel itself; Llama 3's and Qwen2's differ in digits.
constexpr const char* kLlama3Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

enum class Words : uint8_t { kGpt2, kGpt2Digits, kLlama3, kQwen2 };

struct PreTokenizer {
  const char* name;
  Words words;
  bool nfc;
  bool ignore_merges;
  bool add_bos;
};
// Of those that say the same, the first is written.
constexpr PreTokenizer kPreTokenizers[] = {
    {"gpt-2", Words::kGpt2, false, false, false},
    {"phi-2", Words::kGpt2, false, false, false},
    {"jais", Words::kGpt2, false, false, false},
    {"mpt", Words::kGpt2, true, false, false},
    {"olmo", Words::kGpt2, true, false, false},
    {"starcoder", Words::kGpt2Digits, false, false, false},
    {"smollm", Words::kGpt2Digits, false, false, false},
    {"refact", Words::kGpt2Digits, false, false, false},
    {"codeshell", Words::kGpt2Digits, false, false, false},
    {"command-r", Words::kGpt2Digits, true, false, false},
    {"lfm2", Words::kLlama3, false, true, true},
    {"llama-bpe", Words::kLlama3, false, true, true},
    {"llama3", Words::kLlama3, false, true, true},
    {"llama-v3", Words::kLlama3, false, true, true},
    {"dbrx", Words::kLlama3, false, false, false},
    {"smaug-bpe", Words::kLlama3, false, false, false},
    {"qwen2", Words::kQwen2, true, false, false},
    {"deepseek-r1-qwen", Words::kQwen2, true, false, false},
    {"stablelm2", Words::kQwen2, false, false, false},
};

const PreTokenizer& find_pre_tokenizer(const std::string& name, const std::string& where) {
  std::string known;
  for (const PreTokenizer& candidate : kPreTokenizers) {
    if (name == candidate.name) return candidate;
    known += (known.empty() ? "" : ", ") + std::string(candidate.name);
  }
  fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.pre\" is \"{}\", expected one of: {}", where, name.substr(0, 60),
       known);
}

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json words_json(Words words) {
  if (words == Words::kGpt2) return byte_level(true);
  Json first{{"type", "Digits"}, {"individual_digits", true}};
  const bool split = words != Words::kGpt2Digits;
  if (split) {
    first = {{"type", "Split"},
             {"pattern", {{"Regex", words == Words::kLlama3 ? kLlama3Pattern : kQwen2Pattern}}},
             {"behavior", "Isolated"},
             {"invert", false}};
  }
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({first, byte_level(!split)})}};
}

Json nfc(bool on) { return on ? Json{{"type", "NFC"}} : Json(); }

Json added_token(const GgmlVocabulary& vocabulary, size_t id) {
  const int64_t type = vocabulary.types[id];
  return {{"id", id},
          {"content", vocabulary.tokens[id]},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", type != GgmlVocabulary::kUserDefined}};
}

bool is_added(int64_t type) {
  return type == GgmlVocabulary::kControl || type == GgmlVocabulary::kUserDefined || type == GgmlVocabulary::kUnknown;
}

// Every token but holes and those matched in the text before the model, unless a merge needs one of these too or it
// stands for what is unknown.
Json vocab_json(const GgmlVocabulary& vocabulary, const std::vector<std::string>& merges, const std::string& where) {
  std::unordered_set<std::string> apart, needed;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int64_t type = vocabulary.types[id];
    if (type == GgmlVocabulary::kControl || type == GgmlVocabulary::kUserDefined) apart.insert(vocabulary.tokens[id]);
  }
  const auto need = [&](const std::string& text) {
    if (apart.count(text) != 0) needed.insert(text);
  };
  for (const std::string& merge : merges) {
    const size_t space = merge.find(' ');
    if (space == merge.npos || apart.empty()) continue;
    need(merge.substr(0, space));
    need(merge.substr(space + 1));
    need(merge.substr(0, space) + merge.substr(space + 1));
  }
  if (vocabulary.unknown) need(vocabulary.tokens.at(static_cast<size_t>(*vocabulary.unknown)));
  Json vocab = Json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (is_hole(vocabulary, id) || (apart.count(token) != 0 && needed.count(token) == 0)) continue;
    if (const auto [it, fresh] = vocab.emplace(token, id); !fresh) {
      fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.tokens\" has \"{}\" as {} and as {}", where, token.substr(0, 60),
           it->get<size_t>(), id);
    }
  }
  return vocab;
}

Json surround(const GgmlVocabulary& vocabulary, bool bos, bool eos, const std::string& where) {
  if (!bos && !eos) return {};
  Json single = Json::array(), specials = Json::object();
  const auto put = [&](bool wanted, const std::optional<int64_t>& id, const char* name) {
    if (!wanted) return;
    if (!id || *id < 0 || *id >= static_cast<int64_t>(vocabulary.tokens.size())) {
      fail(ErrorKind::kInput,
           "{}: \"tokenizer.ggml.add_{}_token\" is true, expected \"tokenizer.ggml.{}_token_id\" to name a token",
           where, name, name);
    }
    const std::string& text = vocabulary.tokens[static_cast<size_t>(*id)];
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    specials[text] = {{"id", text}, {"ids", {*id}}, {"tokens", {text}}};
  };
  put(bos, vocabulary.bos, "bos");
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  put(eos, vocabulary.eos, "eos");
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", specials}};
}

// SentencePiece's: spaces are written as one character, one of them put first.
void spell_llama(const GgmlVocabulary& vocabulary, Json& out) {
  const bool prefix = vocabulary.add_space_prefix.value_or(true);
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}});
  Json decoders = Json::array({Json{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                               Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}});
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  out["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  out["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  out["model"]["byte_fallback"] =
      std::find(vocabulary.types.begin(), vocabulary.types.end(), GgmlVocabulary::kByte) != vocabulary.types.end();
  out["model"]["fuse_unk"] = true;
  if (vocabulary.unknown) out["model"]["unk_token"] = vocabulary.tokens.at(static_cast<size_t>(*vocabulary.unknown));
}

size_t characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

}  // namespace

bool is_hole(const GgmlVocabulary& vocabulary, size_t id) {
  return vocabulary.types[id] == GgmlVocabulary::kUnused && vocabulary.tokens[id] == fmt::format("[PAD{}]", id);
}

std::vector<std::string> merges_of_scores(const GgmlVocabulary& vocabulary, const std::string& where) {
  struct Merge {
    size_t token, cut, left, right;  // bytes of the first part; characters of both
  };
  std::unordered_map<std::string_view, size_t> ids;
  const auto merges = [&](size_t id) {
    return vocabulary.types[id] == GgmlVocabulary::kNormal || vocabulary.types[id] == GgmlVocabulary::kUserDefined;
  };
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (merges(id)) ids.emplace(vocabulary.tokens[id], id);
  }
  std::vector<Merge> found;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    if (!merges(id)) continue;
    if (token.size() > kMaxScoredToken) {
      fail(ErrorKind::kInput, "{}: \"tokenizer.ggml.tokens\" has one of {} bytes as {}, expected at most {}", where,
           token.size(), id, kMaxScoredToken);
    }
    for (size_t cut = 1; cut < token.size(); ++cut) {
      if ((static_cast<unsigned char>(token[cut]) & 0xC0) == 0x80) continue;
      if (ids.count(token.substr(0, cut)) == 0 || ids.count(token.substr(cut)) == 0) continue;
      found.push_back({id, cut, characters(token.substr(0, cut)), characters(token.substr(cut))});
    }
  }
  std::stable_sort(found.begin(), found.end(), [&](const Merge& a, const Merge& b) {
    const float score_a = vocabulary.scores[a.token], score_b = vocabulary.scores[b.token];
    return std::tie(score_a, a.left, a.right) > std::tie(score_b, b.left, b.right);
  });
  std::vector<std::string> out;
  out.reserve(found.size());
  for (const Merge& merge : found) {
    const std::string& token = vocabulary.tokens[merge.token];
    out.push_back(token.substr(0, merge.cut) + " " + token.substr(merge.cut));
  }
  return out;
}

Json tokenizer_json(const GgmlVocabulary& vocabulary, const std::string& where) {
  const bool llama = vocabulary.model == "llama";
  Json out{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"normalizer", nullptr}};
  out["pre_tokenizer"] = nullptr;
  out["model"] = {{"type", "BPE"}};
  bool bos = llama;
  if (llama) {
    spell_llama(vocabulary, out);
  } else {
    const PreTokenizer& pre = find_pre_tokenizer(vocabulary.pre, where);
    bos = pre.add_bos;
    out["normalizer"] = nfc(pre.nfc);
    out["pre_tokenizer"] = words_json(pre.words);
    out["decoder"] = byte_level(true);
    out["model"]["ignore_merges"] = pre.ignore_merges;
  }
  const std::vector<std::string> merges =
      llama && vocabulary.merges.empty() ? merges_of_scores(vocabulary, where) : vocabulary.merges;
  out["model"]["vocab"] = vocab_json(vocabulary, merges, where);
  out["model"]["merges"] = merges;
  Json added = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (is_added(vocabulary.types[id])) added.push_back(added_token(vocabulary, id));
  }
  out["added_tokens"] = std::move(added);
  out["post_processor"] =
      surround(vocabulary, vocabulary.add_bos.value_or(bos), vocabulary.add_eos.value_or(false), where);
  return out;
}

std::string pre_tokenizer_name(const Json& tokenizer, bool* exact) {
  const Json model = tokenizer.value("model", Json::object());
  const auto same = [&](const PreTokenizer& candidate) {
    const Json made{{"normalizer", nfc(candidate.nfc)}, {"pre_tokenizer", words_json(candidate.words)}};
    const Json got{{"normalizer", tokenizer.value("normalizer", Json())},
                   {"pre_tokenizer", tokenizer.value("pre_tokenizer", Json())}};
    return canonical_tokenizer(made) == canonical_tokenizer(got) &&
           model.value("ignore_merges", false) == candidate.ignore_merges;
  };
  for (const PreTokenizer& candidate : kPreTokenizers) {
    if (!same(candidate)) continue;
    *exact = true;
    return candidate.name;
  }
  *exact = false;
  return "gpt-2";
}

}  // namespace carousel::model
