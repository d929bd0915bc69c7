// SPDX-License-Identifier: Apache-2.0
// GGUF models: between their metadata and the config.json and tokenizer.json that everything else reads, and between
// their tensor names and ours. docs/formats.md lists keys and names.
#pragma once

#include <string>
#include <vector>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/config.h"
#include "carousel/model/families/family.h"
#include "carousel/model/params.h"

namespace carousel::model {

/// The config.json of a GGUF checkpoint, of the family its architecture belongs to. Throws Error(kInput) naming the
/// key or tensor: absent, contradictory, out of range, or of an effect that is not implemented. `warnings`, if
/// given, receives lines about keys nobody knows and widths that the tensors contradict.
Json gguf_config(const formats::Checkpoint& checkpoint, const std::string& where,
                 std::vector<std::string>* warnings = nullptr);

/// The keys that gguf_config reads back as `config`, "general.architecture" first.
formats::GgufKeys gguf_keys(const ModelConfig& config, const std::vector<ParamRecord>& records);

/// The keys that list tensors which were narrower before a GGUF file got them in F32.
inline constexpr const char* kGgufWidened[] = {"carousel.widened.bf16", "carousel.widened.f16"};

/// The key that lists the ids which end texts, beyond the three that GGUF has keys for.
inline constexpr const char* kGgufFurtherEnds = "carousel.eos_token_ids";

/// How the tensors of a checkpoint are spelled: as its family's, or as GGUF's for that family.
TensorNames spelling_of(const ModelConfig& config, const formats::Checkpoint* checkpoint, const std::string& where);
/// That of the model's family, where its keys can say all of the model; else the one that takes any.
const GgufSide& gguf_side(const ModelConfig& config);
/// The side with this architecture; nullptr: no family has it.
const GgufSide* known_side(const std::string& architecture);

/// Shapes for parse_config, by the names of the published files, however this checkpoint spells them.
ShapeOf shapes_of(const formats::Checkpoint* checkpoint);

/// The tokenizer.json that a GGUF file's keys describe; empty where it has no tokenizer. Throws Error(kInput).
std::string gguf_tokenizer(const formats::GgufMetadata& metadata, const std::string& where);
/// The keys that describe a tokenizer.json of a model with `vocab_size` ids; an empty text: there is none. If they
/// cannot describe it exactly, the whole tokenizer.json is added under "tokenizer.huggingface.json". The tokens that
/// begin, end and pad texts are those of `config`, and have keys without a tokenizer too.
formats::GgufKeys tokenizer_keys(const std::string& tokenizer_json, int64_t vocab_size, const Json& config,
                                 const std::string& where);

}  // namespace carousel::model
