// SPDX-License-Identifier: Apache-2.0
// Tensor names of GGUF, by architecture: those of llama.cpp where it has the architecture, and in their style for
// xlstm. Llama's query and key rows are stored in the order of interleaved rotation, pair by pair.
#include "carousel/model/gguf/names.h"

#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/assert.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/rope.h"

namespace carousel::model {

std::vector<TensorSource> gguf_places(const std::string& name, std::span<const GgufName> parts) {
  if (name == "embeddings.weight") return {{"token_embd.weight"}};
  if (name == "lm_head.weight") return {{"output.weight"}};
  if (name.starts_with("out_norm.")) return {{"output_norm." + name.substr(9)}};
  const LayerName place = split_layer(name);
  for (const GgufName& part : parts) {
    std::string rest = place.rest;
    if (strip_prefix(rest, part.name)) return {{fmt::format("blk.{}.{}{}", place.layer, part.file, rest)}};
  }
  return {{name}};
}

bool gguf_ignorable(const ModelConfig& config, const std::string& tensor) {
  return tensor == kRopeTensor || (config.tie_word_embeddings && tensor == "output.weight");
}

const GgufSide* known_side(const std::string& architecture) {
  for (const Family& family : families()) {
    if (family.gguf != nullptr && architecture == family.gguf->architecture) return family.gguf;
  }
  return nullptr;
}

const GgufSide& gguf_side(const ModelConfig& config) {
  const GgufSide* const own = find_family(config.model_type, "GGUF").gguf;
  const bool wired = std::any_of(config.sublayers.begin(), config.sublayers.end(),
                                 [](const Sublayer& sublayer) { return sublayer.options.contains("wiring"); });
  if (own != nullptr && !wired && (own->holds == nullptr || own->holds(config))) return *own;
  const auto any = std::find_if(families().begin(), families().end(),
                                [](const Family& family) { return family.gguf != nullptr && family.gguf->whole; });
  CAROUSEL_ASSERT(any != families().end());
  return *any->gguf;
}

TensorNames spelling_of(const ModelConfig& config, const formats::Checkpoint* checkpoint, const std::string& where) {
  const bool gguf = checkpoint != nullptr && checkpoint->gguf() != nullptr;
  return gguf ? gguf_side(config).names : find_family(config.model_type, where).names;
}

ShapeOf shapes_of(const formats::Checkpoint* checkpoint) {
  if (checkpoint == nullptr) return {};
  const GgufSide* side = nullptr;
  if (checkpoint->gguf() != nullptr) {
    const Json architecture = checkpoint->gguf()->values.value("general.architecture", Json());
    if (architecture.is_string()) side = known_side(architecture.get<std::string>());
  }
  return [checkpoint, side](const std::string& name) -> std::optional<Shape> {
    std::string file_name = name;
    if (side != nullptr) {
      for (const Renamed& asked : side->asked) {
        if (name == asked.published) file_name = asked.gguf;
      }
    }
    const formats::TensorEntry* entry = checkpoint->find(file_name);
    return entry == nullptr ? std::nullopt : std::optional<Shape>(entry->shape);
  };
}

}  // namespace carousel::model
