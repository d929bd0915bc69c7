// SPDX-License-Identifier: Apache-2.0
// The sources of a prompt, the check of its text, and the token that stands for an empty one.
#pragma once

#include <cstdint>
#include <string>

#include "carousel/model/load.h"

namespace carousel::cli {

/// A prompt, and the name of its source for messages.
struct Prompt {
  std::string text;
  std::string where;
};

/// All of a file, a pipe or a terminal, up to its end; "-": stdin. Throws Error(kIo); kInput beyond
/// max_bytes.
std::string read_input(const std::string& path, size_t max_bytes);
/// The text of `file` ("-": stdin) without the newline at its end. Without a file: the text of stdin if `piped_too` and
/// stdin is no terminal. Throws Error(kIo, kInput).
Prompt read_prompt(const std::string& file, bool piped_too);
/// Throws Error(kInput) for a prompt that is no text, unless the tokenizer takes any byte.
void check_prompt(const Prompt& prompt, const text::Tokenizer& tokenizer);
/// The token that a text starts from without a prompt: the model's BOS, or the token between texts. Throws
/// Error(kInput) when there is neither.
int32_t start_token(const model::Model& model);

}  // namespace carousel::cli
