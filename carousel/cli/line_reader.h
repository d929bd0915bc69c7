// SPDX-License-Identifier: Apache-2.0
// Lines from standard input: edited and remembered at a terminal (libedit), plain otherwise, so that input can come
// from a script.
#pragma once

#include <memory>
#include <string>

namespace carousel::cli {

class LineReader {
 public:
  LineReader();
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  enum class Got { kLine, kEnd, kSignal };
  /// The next line without its newline, "\n" or "\r\n", the first without a byte order mark. The prompt is shown at a
  /// terminal only. kSignal: a signal came instead, and the typed part of the line is dropped. Throws Error(kIo);
  /// Error(kInput) for a line too long, which is skipped.
  Got read(const std::string& prompt, std::string& line);
  bool terminal() const;

 private:
  struct Editor;
  Got read_plain(std::string& line);
  Got read_bytes(std::string& line);  // reads up to the newline

  bool terminal_;
  std::unique_ptr<Editor> editor_;  // at a terminal, where the build has libedit
  std::string buffer_;              // bytes read and not yet returned
  size_t searched_ = 0;             // so many first bytes of buffer_ have no newline
  bool first_ = true;               // no line was returned yet
};

}  // namespace carousel::cli
