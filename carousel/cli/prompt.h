// SPDX-License-Identifier: Apache-2.0
// Where a prompt comes from, what it may hold, and what stands for none.
#pragma once

#include <cstdint>
#include <string>

#include "carousel/model/load.h"

namespace carousel::cli {

/// The prompt and where it came from, for messages.
struct Prompt {
  std::string text;
  std::string where;
};

/// All of a file, or of what a pipe or a terminal gives until its end; "-": of stdin. Throws Error(kIo); kInput beyond
/// max_bytes.
std::string read_input(const std::string& path, size_t max_bytes);
/// The text of `file` ("-": stdin) without the newline at its end. Without a file: of stdin if `piped_too` and that is
/// no terminal. Throws Error(kIo, kInput).
Prompt read_prompt(const std::string& file, bool piped_too);
/// Throws Error(kInput) for what is no text, unless the tokenizer takes any byte.
void check_prompt(const Prompt& prompt, const text::Tokenizer& tokenizer);
/// What a text starts from when there is nothing else: the model's BOS, or the token between texts. Throws
/// Error(kInput) when there is neither.
int32_t start_token(const model::Model& model);

}  // namespace carousel::cli
