// SPDX-License-Identifier: Apache-2.0
// Reads C++ as far as the rules need it: comments and literals are told from code, code is cut into tokens.
#include "tests/layering/source.h"

#include <cctype>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>

namespace carousel::layering {
namespace {

namespace fs = std::filesystem;

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Splits a text into the lines of a Source.
class Reader {
 public:
  Reader(const std::string& text, Source* out) : text_(text), out_(out) {}

  void read() {
    add_line();
    while (at_ < text_.size()) {
      if (text_[at_] == '\n') {
        if (++at_ < text_.size()) add_line();
      } else if (text_.compare(at_, 2, "//") == 0) {
        skip_to(text_.find('\n', at_));
      } else if (text_.compare(at_, 2, "/*") == 0) {
        const size_t end = text_.find("*/", at_ + 2);
        skip_to(end == std::string::npos ? end : end + 2);
      } else if (text_[at_] == '"' && is_raw()) {
        raw_string();
      } else if (text_[at_] == '"' || (text_[at_] == '\'' && !is_digit_separator())) {
        literal(text_[at_]);
      } else {
        out_->code.back() += text_[at_];
        keep();
      }
    }
  }

 private:
  void add_line() {
    out_->lines.emplace_back();
    out_->code.emplace_back();
    out_->text.emplace_back();
  }
  void keep() { out_->lines.back() += text_[at_++]; }
  void skip_to(size_t end) {
    end = end == std::string::npos ? text_.size() : end;
    while (at_ < end) {
      if (text_[at_] == '\n') {
        ++at_;
        add_line();
      } else {
        keep();
      }
    }
  }
  bool is_digit_separator() const { return at_ > 0 && is_word(text_[at_ - 1]); }
  bool is_raw() const { return at_ > 0 && text_[at_ - 1] == 'R' && (at_ < 2 || !is_word(text_[at_ - 2])); }

  void raw_string() {
    out_->code.back().pop_back();  // the R
    const size_t open = text_.find('(', at_);
    if (open == std::string::npos) return skip_to(open);
    const std::string close = ")" + text_.substr(at_ + 1, open - at_ - 1) + "\"";
    const size_t end = text_.find(close, open);
    skip_to(open + 1);
    while (at_ < text_.size() && at_ < end) {
      if (text_[at_] != '\n') out_->text.back() += text_[at_];
      skip_to(at_ + 1);
    }
    out_->text.back() += ' ';
    skip_to(end == std::string::npos ? end : end + close.size());
  }

  void literal(char quote) {
    keep();
    while (at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n') {
      if (quote == '"') out_->text.back() += text_[at_];
      const bool escape = text_[at_] == '\\' && at_ + 1 < text_.size();
      keep();
      if (escape) skip_to(at_ + 1);
    }
    if (at_ < text_.size() && text_[at_] == quote) {
      if (quote == '"') out_->text.back() += ' ';
      keep();
    }
  }

  const std::string& text_;
  Source* out_;
  size_t at_ = 0;
};

std::vector<Source> read_folder(const std::string& top) {
  std::vector<Source> sources;
  const fs::path root = CAROUSEL_SOURCE_DIR;
  for (const fs::directory_entry& file : fs::recursive_directory_iterator(root / top)) {
    const std::string extension = file.path().extension().string();
    if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh") continue;
    std::ostringstream text;
    text << std::ifstream(file.path()).rdbuf();
    sources.push_back(read_source(fs::relative(file.path(), root).generic_string(), text.str()));
  }
  return sources;
}

void cut(const std::string& code, size_t line, std::vector<Token>* tokens) {
  static const std::vector<std::string> kSymbols = {"...", "<=>", "::", "->", "<<", "<=", ">=", "==", "!=", "&&", "||"};
  for (size_t i = 0; i < code.size();) {
    if (std::isspace(static_cast<unsigned char>(code[i])) != 0) {
      ++i;
      continue;
    }
    size_t size = 1;
    if (is_word(code[i])) {
      const bool number = std::isdigit(static_cast<unsigned char>(code[i])) != 0;
      while (i + size < code.size() && (is_word(code[i + size]) || (number && code[i + size] == '.'))) ++size;
    } else {
      for (const std::string& symbol : kSymbols) {
        if (code.compare(i, symbol.size(), symbol) != 0) continue;
        size = symbol.size();
        break;
      }
    }
    tokens->push_back({code.substr(i, size), line});
    i += size;
  }
}

}  // namespace

Source read_source(const std::string& path, const std::string& text) {
  Source source;
  source.path = path;
  const fs::path parts = path;
  const auto first = parts.begin();
  source.folder = *first == "carousel" ? std::next(first)->string() : first->string();
  Reader(text, &source).read();
  return source;
}

const std::vector<Source>& library() {
  static const std::vector<Source> sources = read_folder("carousel");
  return sources;
}

const std::vector<Source>& tests() {
  static const std::vector<Source> sources = read_folder("tests");
  return sources;
}

std::vector<Include> includes_of(const Source& source) {
  static const std::regex include("^\\s*#\\s*include\\s*([\"<])([^\">]+)");
  std::vector<Include> includes;
  for (size_t i = 0; i < source.lines.size(); ++i) {
    std::smatch match;
    if (source.code[i].find('#') == std::string::npos || !std::regex_search(source.lines[i], match, include)) continue;
    includes.push_back({i + 1, match[2], match[1] == "\""});
  }
  return includes;
}

std::vector<Token> tokens_of(const Source& source, Branches branches) {
  static const std::regex directive("^\\s*#\\s*(\\w+)");
  std::vector<Token> tokens;
  std::vector<bool> kept = {true};  // for each #if around a line: whether its branch is read
  bool continued = false;           // the line before ended a directive with a backslash
  for (size_t i = 0; i < source.code.size(); ++i) {
    const std::string& code = source.code[i];
    const bool continues = !code.empty() && code.back() == '\\';
    std::smatch match;
    if (continued || std::regex_search(code, match, directive)) {
      const std::string name = continued ? "" : match[1].str();
      if (name == "if" || name == "ifdef" || name == "ifndef") kept.push_back(kept.back());
      if (name == "endif" && kept.size() > 1) kept.pop_back();
      if ((name == "else" || name == "elif") && branches == Branches::kFirst) kept.back() = false;
      continued = continues;
      continue;
    }
    if (kept.back()) cut(code, i + 1, &tokens);
  }
  return tokens;
}

bool starts_with(const std::string& text, const std::string& start) { return text.rfind(start, 0) == 0; }
bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}
std::string name_of(const std::string& path) { return fs::path(path).filename().string(); }

std::string family_of(const std::string& path) {
  const std::string ops = "carousel/ops/";
  if (!starts_with(path, ops)) return "";
  const size_t end = path.find('/', ops.size());
  return end == std::string::npos ? "" : path.substr(9, end - 9);
}

}  // namespace carousel::layering
