// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json to the keys "tokenizer.*" of a GGUF file.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/vocabulary.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 24;

// The members of a component that is a Sequence, flat, or the component alone.
Json steps_of(const Json& component, const char* list) {
  Json out = Json::array();
  if (!component.is_object()) return out;
  if (component.value("type", "") != "Sequence") return Json::array({component});
  for (const Json& member : component.value(list, Json::array())) {
    for (const Json& step : steps_of(member, list)) out.push_back(step);
  }
  return out;
}

void set_defaults(Json& step, std::initializer_list<std::pair<const char*, Json>> defaults) {
  for (const auto& [key, value] : defaults) {
    if (!step.contains(key)) step[key] = value;
  }
}

Json canonical_steps(const Json& component, const char* list, bool words) {
  Json out = steps_of(component, list);
  for (Json& step : out) {
    const std::string type = step.value("type", "");
    if (type == "ByteLevel") step.erase("trim_offsets");
    if (type == "ByteLevel" && words) set_defaults(step, {{"add_prefix_space", true}, {"use_regex", true}});
    if (type == "ByteLevel" && !words) step = {{"type", "ByteLevel"}};
    if (type == "Split") set_defaults(step, {{"invert", false}});
    if (type == "Digits") set_defaults(step, {{"individual_digits", false}});
  }
  return out;
}

struct Surround {
  std::vector<int64_t> before, after;
};

// The ids around a text. A template of unknown shape gives a mark that equals nothing.
Surround surround_of(const Json& processor) {
  Surround out;
  for (const Json& step : steps_of(processor, "processors")) {
    if (step.value("type", "") != "TemplateProcessing") continue;
    bool behind = false;
    for (const Json& piece : step.value("single", Json::array())) {
      if (piece.contains("Sequence")) {
        behind = true;
        continue;
      }
      const auto name = piece.at("SpecialToken").at("id").get<std::string>();
      for (const Json& id : step.at("special_tokens").at(name).at("ids")) {
        (behind ? out.after : out.before).push_back(id.get<int64_t>());
      }
    }
  }
  return out;
}

std::string merge_text(const Json& merge) {
  if (merge.is_string()) return merge.get<std::string>();
  return merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>();
}

Json canonical_added(const Json& added, bool normalizes) {
  Json out = Json::object();
  for (const Json& token : added) {
    const bool special = token.value("special", false);
    out[token.at("content").get<std::string>()] = {token.at("id"),
                                                   token.value("single_word", false),
                                                   token.value("lstrip", false),
                                                   token.value("rstrip", false),
                                                   normalizes && token.value("normalized", !special),
                                                   special};
  }
  return out;
}

Json canonical_model(const Json& model, const Json& added) {
  Json vocab = model.value("vocab", Json::object());
  for (const Json& token : added) vocab[token.at("content").get<std::string>()] = token.at("id");
  Json merges = Json::array();
  for (const Json& merge : model.value("merges", Json::array())) merges.push_back(merge_text(merge));
  const auto text = [&](const char* key) {
    const Json value = model.value(key, Json());
    return value.is_string() ? value.get<std::string>() : std::string();
  };
  const bool unknown = !text("unk_token").empty();
  return {{"vocab", vocab},
          {"merges", merges},
          {"unk_token", text("unk_token")},
          {"affixes", {text("continuing_subword_prefix"), text("end_of_word_suffix")}},
          {"fuse_unk", unknown && model.value("fuse_unk", false)},
          {"byte_fallback",
           model.value("byte_fallback", false) && vocab.contains("<0x00>")},  // without that token it has no effect
          {"ignore_merges", model.value("ignore_merges", false)}};
}

// Fills in the tokens by id and their types; an id without a token gets a hole.
void read_tokens(const Json& tokenizer, int64_t vocab_size, GgmlVocabulary& out, const std::string& where) {
  std::map<size_t, std::pair<std::string, int64_t>> by_id;
  const Json& model = tokenizer.at("model");
  const bool bytes = model.value("byte_fallback", false);
  const Json unknown = model.value("unk_token", Json());
  for (const auto& [token, id] : model.at("vocab").items()) {
    const bool byte = bytes && token.size() == 6 && token.starts_with("<0x") && token.ends_with('>');
    by_id[id.get<size_t>()] = {token, byte ? GgmlVocabulary::kByte : GgmlVocabulary::kNormal};
  }
  for (const Json& token : tokenizer.value("added_tokens", Json::array())) {
    const auto content = token.at("content").get<std::string>();
    const int64_t type = unknown == content              ? GgmlVocabulary::kUnknown
                         : token.value("special", false) ? GgmlVocabulary::kControl
                                                         : GgmlVocabulary::kUserDefined;
    by_id[token.at("id").get<size_t>()] = {content, type};
  }
  const size_t count = std::max(static_cast<size_t>(vocab_size), by_id.empty() ? 0 : by_id.rbegin()->first + 1);
  if (count > kMaxTokens) fail(ErrorKind::kInput, "{}: {} ids, expected at most {}", where, count, kMaxTokens);
  for (size_t id = 0; id < count; ++id) {
    const auto found = by_id.find(id);
    const bool hole = found == by_id.end();
    out.tokens.push_back(hole ? fmt::format("[PAD{}]", id) : found->second.first);
    out.types.push_back(hole ? int64_t{GgmlVocabulary::kUnused} : found->second.second);
    if (unknown == out.tokens.back()) out.unknown = static_cast<int64_t>(id);
  }
}

// Fills in scores that put the merges in their order. Tokens whose merges are interleaved had the same score.
void read_scores(const std::vector<std::string>& merges, GgmlVocabulary& out) {
  const auto made = [](const std::string& merge) {
    const size_t space = merge.find(' ');
    return merge.substr(0, space) + merge.substr(space + 1);
  };
  std::unordered_map<std::string, size_t> last, rank;
  for (size_t i = 0; i < merges.size(); ++i) last[made(merges[i])] = i;
  size_t group = 0, end = 0;
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string token = made(merges[i]);
    if (i > end) ++group;
    end = std::max(i > end ? i : end, last.at(token));
    rank.emplace(token, group);
  }
  for (size_t id = 0; id < out.tokens.size(); ++id) {
    const auto found = rank.find(out.tokens[id]);
    const bool normal = out.types[id] == GgmlVocabulary::kNormal;
    const size_t place = found != rank.end() ? found->second : ++group;
    out.scores.push_back(normal ? -static_cast<float>(place) : 0.0F);
  }
}

// The ids below `count` that a key of a config names: one, or a list of them.
std::vector<int64_t> ids_of(const Json& config, const char* key, size_t count) {
  const Json value = config.value(key, Json());
  std::vector<int64_t> out;
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (id.is_number_integer() && id >= 0 && id < static_cast<int64_t>(count)) out.push_back(id.get<int64_t>());
  }
  return out;
}

std::optional<int64_t> first_of(const std::vector<int64_t>& ids) {
  return ids.empty() ? std::nullopt : std::optional(ids.front());
}

GgmlVocabulary vocabulary_of(const Json& tokenizer, int64_t vocab_size, const Json& config, const std::string& where) {
  GgmlVocabulary out;
  const Json& model = tokenizer.at("model");
  const Json words = steps_of(tokenizer.value("pre_tokenizer", Json()), "pretokenizers");
  const bool byte_level = !words.empty() && words.back().value("type", "") == "ByteLevel";
  out.model = byte_level ? "gpt2" : model.value("byte_fallback", false) ? "llama" : "";
  if (out.model.empty()) return out;
  read_tokens(tokenizer, vocab_size, out, where);
  std::vector<std::string> merges;
  for (const Json& merge : model.at("merges")) merges.push_back(merge_text(merge));
  if (byte_level) {
    bool exact = false;
    out.pre = pre_tokenizer_name(tokenizer, &exact);
    out.merges = merges;
  } else {
    read_scores(merges, out);
    if (merges_of_scores(out, where) != merges) out.merges = merges;
    const Json first = steps_of(tokenizer.value("normalizer", Json()), "normalizers");
    out.add_space_prefix = !first.empty() && first[0].value("type", "") == "Prepend";
  }
  out.bos = first_of(ids_of(config, "bos_token_id", out.tokens.size()));
  out.eos = first_of(ids_of(config, "eos_token_id", out.tokens.size()));
  const Surround around = surround_of(tokenizer.value("post_processor", Json()));
  if (around.before.size() == 1) out.bos = around.before.front();
  if (around.after.size() == 1) out.eos = around.after.front();
  out.add_bos = around.before.size() == 1;
  out.add_eos = around.after.size() == 1;
  return out;
}

// The keys of the tokens that begin, end and pad texts. A token that the post-processor adds is the first of its kind.
formats::GgufKeys id_keys(const GgmlVocabulary& vocabulary, const Json& config, size_t count) {
  std::vector<int64_t> begins = ids_of(config, "bos_token_id", count), ends;
  if (vocabulary.bos) begins.insert(begins.begin(), *vocabulary.bos);
  const auto take_end = [&](int64_t id) {
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  if (vocabulary.eos) take_end(*vocabulary.eos);
  for (const int64_t id : ids_of(config, "eos_token_id", count)) take_end(id);
  formats::GgufKeys keys;
  const auto put = [&](const char* kind, const std::vector<int64_t>& ids, size_t i) {
    if (i < ids.size())
      keys.emplace_back(fmt::format("tokenizer.ggml.{}_token_id", kind), static_cast<uint32_t>(ids[i]));
  };
  put("bos", begins, 0);
  put("eos", ends, 0);
  put("eot", ends, 1);
  put("eom", ends, 2);
  put("padding", ids_of(config, "pad_token_id", count), 0);
  if (ends.size() > 3) keys.emplace_back(kGgufFurtherEnds, std::vector<int32_t>(ends.begin() + 3, ends.end()));
  return keys;
}

// The keys that describe the vocabulary, without those of id_keys.
formats::GgufKeys vocabulary_keys(const GgmlVocabulary& vocabulary) {
  formats::GgufKeys keys;
  const auto put = [&](const char* key, formats::GgufValue value) {
    keys.emplace_back(std::string("tokenizer.ggml.") + key, std::move(value));
  };
  if (vocabulary.model.empty()) {
    put("model", std::string("no_vocab"));
    return keys;
  }
  put("model", vocabulary.model);
  put("pre", vocabulary.pre.empty() ? std::string("default") : vocabulary.pre);
  put("tokens", vocabulary.tokens);
  put("token_type", std::vector<int32_t>(vocabulary.types.begin(), vocabulary.types.end()));
  if (!vocabulary.scores.empty()) put("scores", vocabulary.scores);
  if (!vocabulary.merges.empty() || vocabulary.model == "gpt2") put("merges", vocabulary.merges);
  if (vocabulary.unknown) put("unknown_token_id", static_cast<uint32_t>(*vocabulary.unknown));
  put("add_bos_token", *vocabulary.add_bos);
  put("add_eos_token", *vocabulary.add_eos);
  if (vocabulary.add_space_prefix) put("add_space_prefix", *vocabulary.add_space_prefix);
  return keys;
}

}  // namespace

Json canonical_tokenizer(const Json& tokenizer) {
  const Json normalizer = canonical_steps(tokenizer.value("normalizer", Json()), "normalizers", false);
  const Json added = tokenizer.value("added_tokens", Json());
  const Surround around = surround_of(tokenizer.value("post_processor", Json()));
  return {{"normalizer", normalizer},
          {"pre_tokenizer", canonical_steps(tokenizer.value("pre_tokenizer", Json()), "pretokenizers", true)},
          {"decoder", canonical_steps(tokenizer.value("decoder", Json()), "decoders", false)},
          {"surround", {around.before, around.after}},
          {"added", canonical_added(added, !normalizer.empty())},
          {"model", canonical_model(tokenizer.value("model", Json::object()), added)}};
}

formats::GgufKeys tokenizer_keys(const std::string& tokenizer_text, int64_t vocab_size, const Json& config,
                                 const std::string& where) {
  GgmlVocabulary vocabulary;
  bool adds_file = !tokenizer_text.empty();  // the keys do not describe all of it
  if (adds_file) {
    const Json tokenizer = parse_json(tokenizer_text, where);
    try {
      vocabulary = vocabulary_of(tokenizer, vocab_size, config, where);
      adds_file = vocabulary.model.empty() ||
                  canonical_tokenizer(tokenizer_json(vocabulary, where)) != canonical_tokenizer(tokenizer);
    } catch (const Json::exception&) {
      vocabulary = {};
    }
  }
  formats::GgufKeys keys = vocabulary_keys(vocabulary);
  const size_t count = vocabulary.model.empty() ? static_cast<size_t>(vocab_size) : vocabulary.tokens.size();
  const formats::GgufKeys ids = id_keys(vocabulary, config, count);
  keys.insert(keys.end(), ids.begin(), ids.end());
  if (adds_file) keys.emplace_back("tokenizer.huggingface.json", tokenizer_text);
  return keys;
}

}  // namespace carousel::model
