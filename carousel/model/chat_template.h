// SPDX-License-Identifier: Apache-2.0
// The chat template published with a model: Jinja's source. It is recognised, never run.
#pragma once

#include <string>

#include "carousel/model/load.h"

namespace carousel::model {

/// A GGUF file's own; of a folder, chat_template.jinja, else "chat_template" in tokenizer_config.json (of several, the
/// one named "default"); empty: none. Throws Error(kIo, kInput) for a file that is not what it should be.
std::string read_chat_template(const ModelPath& place);

}  // namespace carousel::model
