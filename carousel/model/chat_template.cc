// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/chat_template.h"

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/formats/gguf.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxBytes = size_t{16} << 20;
constexpr size_t kMaxDepth = 64;

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
  return "";
}

}  // namespace carousel::model
