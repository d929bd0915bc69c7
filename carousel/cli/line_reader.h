// SPDX-License-Identifier: Apache-2.0
// Lines from standard input: edited and remembered at a terminal (libedit), plain otherwise, so that what is typed can
// be scripted as well.
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
  /// terminal only. kSignal: a signal came instead, and what was typed of the line is dropped. Throws Error(kIo);
  /// Error(kInput) for a line too long, which is skipped.
  Got read(const std::string& prompt, std::string& line);
  bool terminal() const;

 private:
  struct Editor;
  Got read_plain(std::string& line);
  Got read_bytes(std::string& line);  // up to the newline

  bool terminal_;
  std::unique_ptr<Editor> editor_;  // at a terminal, where the build has libedit
  std::string buffer_;              // read and not yet handed out
  size_t searched_ = 0;             // of buffer_, without a newline
  bool first_ = true;               // no line was handed out yet
};

}  // namespace carousel::cli
