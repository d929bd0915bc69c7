// SPDX-License-Identifier: Apache-2.0
// Lines from libedit at a terminal, or from a buffer of bytes; both return when a signal comes.
#include "carousel/cli/line_reader.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <cwchar>
#include <utility>

#ifdef CAROUSEL_LIBEDIT
#include <histedit.h>
#endif

#include "carousel/cli/signals.h"
#include "carousel/core/error.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr size_t kMaxLineBytes = size_t{16} << 20;

[[noreturn]] void refuse_long_line() {
  fail(ErrorKind::kInput, "stdin: a line of more than {} bytes, expected at most that", kMaxLineBytes);
}

}  // namespace

#ifdef CAROUSEL_LIBEDIT

namespace {

constexpr int kHistoryLines = 1000;  // of this process alone: what is typed is written nowhere

constexpr char kCtrlD = 0x04;

struct Typing {
  std::string prompt;
  int ahead = -1;  // bytes of this line's that came before libedit made the terminal ready; -1: not looked yet
};

Typing& typing(EditLine* editor) {
  void* data = nullptr;
  el_get(editor, EL_CLIENTDATA, &data);
  return *static_cast<Typing*>(data);
}

const char* current_prompt(EditLine* editor) { return typing(editor).prompt.c_str(); }

// libedit's own reader misses a signal that comes while the terminal is made ready, and waits on. Between lines the
// terminal makes a Ctrl-D the end of its input, of which a zero byte is left once libedit takes keys one by one.
int read_character(EditLine* editor, wchar_t* character) {
  int& ahead = typing(editor).ahead;
  if (ahead < 0 && ioctl(STDIN_FILENO, FIONREAD, &ahead) != 0) ahead = 0;
  std::mbstate_t state{};
  for (;;) {
    if (!wait_readable(STDIN_FILENO)) {
      errno = EINTR;
      return -1;
    }
    char byte = 0;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return static_cast<int>(count);
    if (ahead > 0 && ahead-- > 0 && byte == 0) byte = kCtrlD;
    const size_t taken = std::mbrtowc(character, &byte, 1, &state);
    if (taken <= 1) return 1;
    if (taken == static_cast<size_t>(-1)) state = {};  // no character: left out
  }
}

}  // namespace

struct LineReader::Editor {
  Editor() {
    std::setlocale(LC_CTYPE, "");  // libedit takes bytes for characters by it
    editor = el_init("carousel", stdin, stdout, stderr);
    past = history_init();
    if (editor == nullptr || past == nullptr) fail(ErrorKind::kIo, "stdin: the terminal cannot be edited on");
    HistEvent event;
    history(past, &event, H_SETSIZE, kHistoryLines);
    history(past, &event, H_SETUNIQUE, 1);
    el_set(editor, EL_CLIENTDATA, &now);
    el_set(editor, EL_PROMPT, current_prompt);
    el_set(editor, EL_HIST, history, past);
    el_set(editor, EL_GETCFN, read_character);
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_SIGNAL, 1);  // a resized or resumed terminal is drawn anew
    el_source(editor, nullptr);    // the user's ~/.editrc
  }
  ~Editor() {
    if (past != nullptr) history_end(past);
    if (editor != nullptr) el_end(editor);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  Got read(std::string& line) {
    int count = 0;
    now.ahead = -1;
    errno = 0;
    const char* text = el_gets(editor, &count);
    if (text == nullptr || count <= 0) {
      if (count < 0 && errno != EINTR) fail(ErrorKind::kIo, "stdin: cannot read: {}", std::strerror(errno));
      std::fputs(count < 0 ? "^C\n" : "\n", stdout);
      std::fflush(stdout);
      return count < 0 ? Got::kSignal : Got::kEnd;
    }
    line.assign(text, static_cast<size_t>(count));
    if (line.size() > kMaxLineBytes) refuse_long_line();
    HistEvent event;
    if (line.find_first_not_of(" \t\n") != std::string::npos) history(past, &event, H_ENTER, line.c_str());
    if (line.ends_with('\n')) line.pop_back();
    return Got::kLine;
  }

  EditLine* editor = nullptr;
  History* past = nullptr;
  Typing now;
};

#else

struct LineReader::Editor {};

#endif

LineReader::LineReader() : terminal_(isatty(STDIN_FILENO) != 0) {
#ifdef CAROUSEL_LIBEDIT
  if (terminal_ && isatty(STDOUT_FILENO) != 0) editor_ = std::make_unique<Editor>();
#endif
}

LineReader::~LineReader() = default;

bool LineReader::terminal() const { return terminal_; }

LineReader::Got LineReader::read(const std::string& prompt, std::string& line) {
#ifdef CAROUSEL_LIBEDIT
  if (editor_) {
    editor_->now.prompt = prompt;
    return editor_->read(line);
  }
#endif
  if (terminal_) {
    std::fputs(prompt.c_str(), stderr);
    std::fflush(stderr);
  }
  return read_plain(line);
}

LineReader::Got LineReader::read_plain(std::string& line) {
  const Got got = read_bytes(line);
  if (got != Got::kLine) return got;
  first_ = false;
  if (line.ends_with('\r')) line.pop_back();
  return got;
}

LineReader::Got LineReader::read_bytes(std::string& line) {
  bool too_long = false;
  for (;;) {
    if (first_ && buffer_.starts_with(text::kByteOrderMark)) buffer_.erase(0, text::kByteOrderMark.size());
    const size_t end = buffer_.find('\n', searched_);
    if (end != std::string::npos) {
      line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      searched_ = 0;
      if (too_long || line.size() > kMaxLineBytes) refuse_long_line();
      return Got::kLine;
    }
    if (buffer_.size() > kMaxLineBytes) {
      too_long = true;
      buffer_.clear();
    }
    searched_ = first_ ? 0 : buffer_.size();
    if (!wait_readable(STDIN_FILENO)) {
      if (terminal_) {
        buffer_.clear();
        std::fputs("\n", stderr);
      }
      searched_ = 0;
      return Got::kSignal;
    }
    char chunk[1 << 12];
    const ssize_t count = ::read(STDIN_FILENO, chunk, sizeof chunk);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(ErrorKind::kIo, "stdin: cannot read: {}", std::strerror(errno));
    if (count > 0) {
      buffer_.append(chunk, static_cast<size_t>(count));
      continue;
    }
    if (too_long) {
      buffer_.clear();
      refuse_long_line();
    }
    if (buffer_.empty()) return Got::kEnd;
    line = std::exchange(buffer_, {});
    searched_ = 0;
    return Got::kLine;
  }
}

}  // namespace carousel::cli
