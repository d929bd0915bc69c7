// SPDX-License-Identifier: Apache-2.0
// Where a model keeps its chat template and the special tokens that the template may name.
#include "carousel/model/chat_template.h"

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/formats/gguf.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr size_t kMaxDepth = 64;
constexpr const char* kNamed[] = {"bos_token", "eos_token", "pad_token", "unk_token",
                                  "sep_token", "cls_token", "mask_token"};

std::string of_gguf(const std::string& path) {
  Fields fields(formats::GgufFile::open(path).metadata().values, path);
  return fields.string("tokenizer.chat_template", "");
}

}  // namespace

std::string read_chat_template(const ModelPath& place) {
  if (formats::is_gguf(place.weights)) return of_gguf(place.weights);
  const std::string jinja = place.folder + "/chat_template.jinja";
  if (file_exists(jinja)) return read_text_file(jinja, kMaxBytes);
  const std::string path = place.folder + "/tokenizer_config.json";
  if (!file_exists(path)) return "";
  Fields fields(read_json_file(path, {kMaxBytes, kMaxDepth}), path);
  const Json* value = fields.raw("chat_template");
  if (value == nullptr) return "";
  if (!value->is_array()) return fields.string("chat_template");
  for (const Json& item : *value) {
    Fields named(item, path + ": chat_template");
    if (named.string("name") == "default") return named.string("template");
  }
  fail(ErrorKind::kInput, "{}: \"chat_template\" has {} templates, expected one named \"default\" among them", path,
       value->size());
}

std::map<std::string, std::string> read_special_tokens(const ModelPath& place, const Json& config,
                                                       const text::Tokenizer& tokenizer) {
  std::map<std::string, std::string> out;
  const std::string path = place.folder + "/tokenizer_config.json";
  if (!formats::is_gguf(place.weights) && file_exists(path)) {
    Fields fields(read_json_file(path, {kMaxBytes, kMaxDepth}), path);
    for (const char* name : kNamed) {
      const Json* value = fields.present(name);
      if (value == nullptr) continue;
      const bool object = value->is_object();
      out[name] = value->is_null() ? ""
                  : object         ? Fields(*value, path + ": " + name).string("content")
                                   : fields.string(name);
    }
  }
  for (const char* name : {"bos_token", "eos_token", "pad_token"}) {
    if (out.contains(name) || !config.is_object()) continue;
    const Json* id = config.contains(std::string(name) + "_id") ? &config.at(std::string(name) + "_id") : nullptr;
    if (id != nullptr && id->is_array() && !id->empty()) id = &id->front();
    if (id == nullptr || !id->is_number_integer() || !tokenizer.is_special(id->get<int64_t>())) continue;
    out[name] = tokenizer.token_text(id->get<int64_t>());
  }
  return out;
}

}  // namespace carousel::model
