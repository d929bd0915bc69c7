// SPDX-License-Identifier: Apache-2.0
// Reads prompts from files, pipes and terminals, and checks that they are text.
#include "carousel/cli/prompt.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/start_token.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr size_t kMaxPromptBytes = size_t{1} << 30;

struct Descriptor {
  ~Descriptor() {
    if (number >= 0) close(number);
  }
  int number;
};

std::string read_all(int descriptor, const std::string& where, size_t max_bytes) {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t count = read(descriptor, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kIo, "{}: cannot read: {}", where, std::strerror(errno));
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
    if (text.size() > max_bytes) {
      fail(ErrorKind::kInput, "{}: more than {} bytes, expected at most that", where, max_bytes);
    }
  }
}

}  // namespace

std::string read_input(const std::string& path, size_t max_bytes) {
  if (path == "-") return read_all(STDIN_FILENO, "stdin", max_bytes);
  std::error_code unknown;  // read_text_file reports the cause
  const std::filesystem::file_status status = std::filesystem::status(path, unknown);
  if (!std::filesystem::is_fifo(status) && !std::filesystem::is_character_file(status)) {
    return read_text_file(path, max_bytes);
  }
  const Descriptor pipe{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (pipe.number < 0) fail(ErrorKind::kIo, "{}: cannot open: {}", path, std::strerror(errno));
  return read_all(pipe.number, path, max_bytes);
}

Prompt read_prompt(const std::string& file, bool piped_too) {
  Prompt prompt;
  if (!file.empty()) {
    prompt = {read_input(file, kMaxPromptBytes), file == "-" ? "stdin" : file};
  } else if (piped_too && isatty(STDIN_FILENO) == 0) {
    prompt = {read_input("-", kMaxPromptBytes), "stdin"};
  }
  if (prompt.text.ends_with('\n')) prompt.text.pop_back();  // an editor or echo wrote it, not the author
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
  if (const std::optional<int32_t> id = model::start_token(model)) return *id;
  fail(ErrorKind::kInput, "the prompt is empty and the tokenizer has no token a text starts with, expected a prompt");
}

}  // namespace carousel::cli
