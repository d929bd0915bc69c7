// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/prompt.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr size_t kMaxPromptBytes = size_t{1} << 30;

}  // namespace

std::string read_stdin(size_t max_bytes) {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t count = read(STDIN_FILENO, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kIo, "stdin: cannot read: {}", std::strerror(errno));
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
    if (text.size() > max_bytes) {
      fail(ErrorKind::kInput, "stdin: more than {} bytes, expected at most that", max_bytes);
    }
  }
}

Prompt read_prompt(const std::string& file, bool piped_too) {
  Prompt prompt;
  if (file == "-" || (file.empty() && piped_too && isatty(STDIN_FILENO) == 0)) {
    prompt = {read_stdin(kMaxPromptBytes), "stdin"};
  } else if (!file.empty()) {
    prompt = {read_text_file(file, kMaxPromptBytes), file};
  }
  if (prompt.text.ends_with('\n')) prompt.text.pop_back();  // the editor's or echo's, not the author's
  return prompt;
}

void check_prompt(const Prompt& prompt, const text::Tokenizer& tokenizer) {
  if (tokenizer.summary().kind == "bytes") return;
  const size_t valid = text::valid_prefix(prompt.text);
  if (valid < prompt.text.size()) {
    fail(ErrorKind::kInput, "{}: byte {} is no UTF-8, expected text", prompt.where, valid);
  }
  const size_t zero = prompt.text.find('\0');
  if (zero != std::string::npos) fail(ErrorKind::kInput, "{}: byte {} is zero, expected text", prompt.where, zero);
}

int32_t start_token(const model::Model& model) {
  const text::Tokenizer& tokenizer = model.text();
  const Json& source = model.config.source;
  const auto bos = source.is_object() ? source.find("bos_token_id") : source.end();
  if (source.is_object() && bos != source.end() && bos->is_number_integer() &&
      tokenizer.is_special(bos->get<int64_t>())) {
    return bos->get<int32_t>();
  }
  for (const char* text : {"<|startoftext|>", "<|begin_of_text|>", "<s>", "<|endoftext|>"}) {
    const std::optional<int32_t> id = tokenizer.id_of(text);
    if (id && tokenizer.is_special(*id)) return *id;
  }
  fail(ErrorKind::kInput, "the prompt is empty and the tokenizer has no token a text starts with, expected a prompt");
}

}  // namespace carousel::cli
