// SPDX-License-Identifier: Apache-2.0
// GGUF models: their metadata as the config.json and tokenizer.json that everything else reads, and their tensor
// names, in both directions. docs/formats.md lists keys and names.
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

/// Lists of the tensors that were narrower before a GGUF file took them in F32.
inline constexpr const char* kGgufWidened[] = {"carousel.widened.bf16", "carousel.widened.f16"};

/// How the tensors of a checkpoint are spelled: as its family's, or as GGUF's for that family.
Family spelling_of(const ModelConfig& config, const formats::Checkpoint* checkpoint, const std::string& where);
Family gguf_family(const std::string& model_type);
/// "llama", "lfm2", "lfm2moe", "xlstm", or "carousel" for all that has no architecture of its own.
std::string gguf_architecture(const ModelConfig& config);

/// For parse_config: shapes by the names of the published files, whichever way this one spells them.
ShapeOf shapes_of(const formats::Checkpoint* checkpoint);

/// The tokenizer.json that a GGUF file's keys describe; empty where it has no tokenizer. Throws Error(kInput).
std::string gguf_tokenizer(const formats::GgufMetadata& metadata, const std::string& where);
/// The keys that describe a tokenizer.json of a model with `vocab_size` ids. What they cannot say exactly goes along
/// whole, under "tokenizer.huggingface.json".
formats::GgufKeys tokenizer_keys(const std::string& tokenizer_json, int64_t vocab_size, const Json& config,
                                 const std::string& where);

}  // namespace carousel::model
