// SPDX-License-Identifier: Apache-2.0
// The chat template published with a model, as Jinja's source. text/chat_form.h tells whether it writes plain ChatML.
#pragma once

#include <map>
#include <string>

#include "carousel/model/load.h"

namespace carousel::model {

/// The template in a GGUF file's keys; of a folder, chat_template.jinja, else "chat_template" in tokenizer_config.json
/// (among several, the one named "default"). Empty: there is none. Throws Error(kIo, kInput) for a file that
/// cannot be used.
std::string read_chat_template(const ModelPath& place);

/// The text of each special token that a template may name: "bos_token", "eos_token" and others. tokenizer_config.json
/// or a GGUF file's keys give them; the text is empty where the file says that there is no such token. A token that
/// neither names has the text of config.json's id in `tokenizer`. Throws as read_chat_template.
std::map<std::string, std::string> read_special_tokens(const ModelPath& place, const Json& config,
                                                       const text::Tokenizer& tokenizer);

}  // namespace carousel::model
