// SPDX-License-Identifier: Apache-2.0
// Walks a pattern, copies it, and rewrites the constructs that libonig 6.9.8 reads otherwise.
#include "carousel/text/onig_faults.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "carousel/text/unicode_encoding.h"

namespace carousel::text {
namespace {

constexpr std::string_view kNewline = "(?:(?:)\\R)";
constexpr std::string_view kConditionBegin = "(?:(?:)";

class Scanner {
 public:
  explicit Scanner(std::string_view pattern) : pattern_(pattern) {}

  std::string run(const char** unsupported) {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (class_depth_ > 0) {
        in_class(c);
      } else if (c == '[') {
        open_class();
      } else if (c == '#' && groups_.back().extended) {
        copy_to(pattern_.find('\n', at_));
      } else if (c == '(') {
        open_group(unsupported);
      } else {
        if (c == ')')
          close_group();
        else
          copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  struct Group {
    bool extended = false;   // (?x): space does not count, # begins a comment
    bool condition = false;  // (?(...)...), which got a group around it
  };

  void copy(size_t count) {
    out_.append(pattern_.substr(at_, count));
    at_ = std::min(at_ + count, pattern_.size());
  }
  void copy_to(size_t end) { copy(std::min(end, pattern_.size()) - at_); }
  bool next_is(std::string_view text) const { return pattern_.substr(at_, text.size()) == text; }

  void escape() {
    if (class_depth_ == 0 && next_is("\\R")) {
      out_.append(kNewline);
      at_ += 2;
    } else if (class_depth_ > 0 || !(next_is("\\p{") || next_is("\\P{")) || !word_property()) {
      copy(2);
    }
  }

  // Writes \p{Word} as \w, and its negations as \W: whether it is that.
  bool word_property() {
    const size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) return false;
    std::string name = plain_property_name(pattern_.substr(at_ + 3, end - at_ - 3));
    const bool negated = !name.empty() && name[0] == '^';
    if (name.substr(negated ? 1 : 0) != "word") return false;
    out_.append(negated != (pattern_[at_ + 1] == 'P') ? "\\W" : "\\w");
    at_ = end + 1;
    return true;
  }

  void open_class() {
    ++class_depth_;
    copy(1);
    if (next_is("^")) copy(1);
    if (next_is("]")) copy(1);  // first in its class: literal
  }

  void in_class(char c) {
    if (c == '[') return open_class();
    if (c == ']') --class_depth_;
    copy(1);
  }

  void open_group(const char** unsupported) {
    if (next_is("(?#")) {
      size_t end = at_ + 3;
      while (end < pattern_.size() && pattern_[end] != ')') end += pattern_[end] == '\\' ? 2 : 1;
      return copy_to(end + 1);
    }
    if (next_is("(?{")) *unsupported = "(?{...}), a callout";
    Group group{groups_.back().extended, next_is("(?(")};
    if (group.condition) {
      out_.append(kConditionBegin);
      groups_.push_back(group);
      return copy(2);
    }
    size_t end = at_ + 1;
    if (next_is("(?") && read_options(&end, &group, unsupported)) {  // (?x) holds to the end of the group around it
      groups_.back().extended = group.extended;
      return copy_to(end);
    }
    groups_.push_back(group);
    copy_to(end);
  }

  // Reads (?imx-imx) or (?imx-imx: at at_; true for the first. *end: where the other begins its contents.
  bool read_options(size_t* end, Group* group, const char** unsupported) {
    bool extended = group->extended;
    bool on = true;
    for (size_t i = at_ + 2; i < pattern_.size(); ++i) {
      const char c = pattern_[i];
      if (c == ')' || c == ':') {
        group->extended = extended;
        *end = i + 1;
        return c == ')';
      }
      if (c == '-') on = false;
      if (c == 'x') extended = on;
      if (c == 'I' || c == 'L') *unsupported = "(?I) or (?L), options of the whole pattern";
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!letter && c != '-' && c != '{' && c != '}') break;  // no options: (?<name>, (?=
    }
    return false;
  }

  void close_group() {
    const bool condition = groups_.back().condition;
    if (groups_.size() > 1) groups_.pop_back();
    copy(1);
    if (condition) out_.push_back(')');
  }

  std::string_view pattern_;
  size_t at_ = 0;
  size_t class_depth_ = 0;
  std::vector<Group> groups_{Group()};
  std::string out_;
};

}  // namespace

std::string without_onig_faults(const std::string& pattern, const char** unsupported) {
  return Scanner(pattern).run(unsupported);
}

}  // namespace carousel::text
