// SPDX-License-Identifier: Apache-2.0
// The chat template published with a model: Jinja's source. It is recognised, never run.
#pragma once

#include <string>

namespace carousel::model {

/// Of chat_template.jinja, else "chat_template" in tokenizer_config.json (of several, the one named "default"); empty:
/// none. Throws Error(kIo, kInput) for a file that is not what it should be.
std::string read_chat_template(const std::string& folder);

}  // namespace carousel::model
