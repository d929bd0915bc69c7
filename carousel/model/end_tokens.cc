// SPDX-License-Identifier: Apache-2.0
// The end tokens of config.json, generation_config.json and the tokenizer.
#include "carousel/model/end_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "carousel/core/files.h"
#include "carousel/model/families/family.h"

namespace carousel::model {
namespace {

// The special tokens that end a text in the published vocabularies.
constexpr const char* kEndTexts[] = {"<|endoftext|>", "</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>"};

std::vector<int64_t> generation_eos(const std::string& folder) {
  const std::string path = folder + "/generation_config.json";
  if (!file_exists(path)) return {};
  Fields fields(read_config(path), path);
  return read_eos(fields);
}

}  // namespace

std::vector<int64_t> stated_end_ids(const ModelConfig& config, const std::string& folder) {
  std::vector<int64_t> out;
  const auto take = [&](int64_t id) {
    if (std::find(out.begin(), out.end(), id) == out.end()) out.push_back(id);
  };
  for (const int64_t id : config.eos_token_ids) take(id);
  if (folder.empty()) return out;
  for (const int64_t id : generation_eos(folder)) take(id);
  return out;
}

std::vector<int32_t> find_end_tokens(Model& model, const std::string& folder, bool from_folder) {
  std::vector<int32_t> ends;
  const auto add = [&](int64_t id) {
    const auto token = static_cast<int32_t>(id);
    if (id >= model.config.vocab_size || std::find(ends.begin(), ends.end(), token) != ends.end()) return;
    ends.push_back(token);
  };
  for (const int64_t id : stated_end_ids(model.config, from_folder ? folder : "")) {
    if (id >= model.config.vocab_size) {
      model.warnings.push_back(fmt::format("{}: eos_token_id {} is outside the vocabulary of {}; not taken as the end",
                                           folder, id, model.config.vocab_size));
    } else if (!model.tokenizer || model.tokenizer->is_special(static_cast<int32_t>(id))) {
      add(id);
    } else {
      model.warnings.push_back(
          fmt::format("{}: eos_token_id {} is an ordinary token of the tokenizer; not taken as the end", folder, id));
    }
  }
  if (!model.tokenizer) return ends;
  for (const char* text : kEndTexts) {
    const std::optional<int32_t> id = model.tokenizer->id_of(text);
    if (id && model.tokenizer->is_special(*id)) add(*id);
  }
  return ends;
}

}  // namespace carousel::model
