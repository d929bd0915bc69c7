// SPDX-License-Identifier: Apache-2.0
// GGUF keys to the config.json of the family whose architecture they name, and back.
#include <fmt/format.h>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/key_reader.h"
#include "carousel/model/gguf/key_writer.h"

namespace carousel::model {
namespace {

constexpr int64_t kQuantization = 2;  // the version of the block layouts

}  // namespace

Json gguf_config(const formats::Checkpoint& checkpoint, const std::string& where, std::vector<std::string>* warnings) {
  Fields general(checkpoint.gguf()->values, where);
  std::vector<std::string> known;
  for (const Family& family : families()) {
    if (family.gguf != nullptr) known.emplace_back(family.gguf->architecture);
  }
  const std::string arch = general.choice("general.architecture", known, {});
  if (const std::string type = general.string("general.type", "model"); type != "model") {
    fail(ErrorKind::kInput, "{}: \"general.type\" is \"{}\", expected a model", where, type.substr(0, 60));
  }
  const int64_t version = general.integer("general.quantization_version", 0, INT64_MAX, kQuantization);
  if (version != kQuantization) {
    fail(ErrorKind::kInput, "{}: \"general.quantization_version\" is {}, expected {}", where, version, kQuantization);
  }
  for (const char* key : kGgufWidened) {
    const formats::GgufArray* names = checkpoint.gguf()->array(key);
    if (names != nullptr) names->strings();  // throws where it is no list of strings
    if (names == nullptr && checkpoint.gguf()->values.contains(key)) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected a list of tensor names", where, key,
           brief(checkpoint.gguf()->values.at(key)));
    }
  }
  KeyReader keys(checkpoint, where, arch);
  Json out = known_side(arch)->read(keys);
  keys.refuse_unsupported();
  if (warnings == nullptr) return out;
  *warnings = keys.warnings;
  for (const std::string& key : keys.unknown()) {
    warnings->push_back(fmt::format("{}: \"{}\" is not a key known here; ignored", where, key));
  }
  return out;
}

formats::GgufKeys gguf_keys(const ModelConfig& config, const std::vector<ParamRecord>& records) {
  const GgufSide& side = gguf_side(config);
  KeyWriter out(config, records, side.architecture);
  side.write(out);
  return out.keys;
}

}  // namespace carousel::model
