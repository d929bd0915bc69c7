// SPDX-License-Identifier: Apache-2.0
// The chat template published with a model: Jinja's source. text/chat_form.h
// tells whether it writes plain ChatML.
#pragma once

#include <map>
#include <string>

#include "carousel/model/load.h"

namespace carousel::model {

/// A GGUF file's own; of a folder, chat_template.jinja, else "chat_template" in tokenizer_config.json (of several, the
/// one named "default"); empty: none. Throws Error(kIo, kInput) for a file that is not what it should be.
std::string read_chat_template(const ModelPath& place);

/// The special tokens that a template may name, "bos_token" and "eos_token" and others, by the text of each: those of
/// tokenizer_config.json, or of a GGUF file's keys; an empty text for one that the file says is none. What neither
/// names is what config.json's ids mean in `tokenizer`. Throws as read_chat_template.
std::map<std::string, std::string> read_special_tokens(const ModelPath& place, const Json& config,
                                                       const text::Tokenizer& tokenizer);

}  // namespace carousel::model
