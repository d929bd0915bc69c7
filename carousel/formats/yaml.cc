// SPDX-License-Identifier: Apache-2.0
// yaml-cpp splits the text into events. The value is built from them here, so that a document is refused before it
// grows.
#include "carousel/formats/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>
#include <vector>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

// The whole text as a number of type T, or nothing.
template <class T>
bool parse_whole(std::string_view text, T& out) {
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out);
  return !text.empty() && parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

Json plain_scalar(const std::string& text) {
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  const bool negative = text.starts_with('-');
  const std::string_view magnitude = std::string_view(text).substr(negative || text.starts_with('+') ? 1 : 0);
  if (magnitude == ".inf" || magnitude == ".Inf" || magnitude == ".INF") {
    return negative ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
  }
  if (text == ".nan" || text == ".NaN" || text == ".NAN") return std::numeric_limits<double>::quiet_NaN();
  // from_chars also knows "inf", "nan" and hexadecimal fractions, which are text here.
  if (magnitude.empty() || magnitude.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return text;
  int64_t whole = 0;
  if (parse_whole(text, whole)) return whole;
  double number = 0;
  if (parse_whole(text, number) && std::isfinite(number)) return number;
  return text;
}

class Builder : public YAML::EventHandler {
 public:
  Builder(const std::string& where, int max_depth) : where_(where), max_depth_(max_depth) {}
  Json root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_anchor(mark, anchor);
    add(mark, Json());
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse(mark, "an alias"); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check_anchor(mark, anchor);
    if (tag != "?" && tag != "!" && !tag.empty()) refuse(mark, "a tag");
    if (expects_key()) return set_key(mark, value);
    add(mark, tag == "!" ? Json(value) : plain_scalar(value));  // tag "!": the scalar was quoted
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Json::array());
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Json::object());
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    Json value;
    std::string key;  // in a map: the key of the entry being read
    bool has_key = false;
  };

  [[noreturn]] void refuse(const YAML::Mark& mark, const std::string& what) const {
    fail(ErrorKind::kInput, "{}: line {}, column {}: got {}, expected a plain value, list or map", where_,
         mark.line + 1, mark.column + 1, what);
  }
  void check_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) refuse(mark, "an anchor");
  }
  bool expects_key() const { return !levels_.empty() && levels_.back().value.is_object() && !levels_.back().has_key; }

  void set_key(const YAML::Mark& mark, const std::string& key) {
    Level& level = levels_.back();
    if (key == "<<") refuse(mark, "a merge key");
    if (level.value.contains(key)) {
      fail(ErrorKind::kInput, "{}: line {}: key {} appears twice", where_, mark.line + 1, brief(key));
    }
    level.key = key;
    level.has_key = true;
  }
  void add(const YAML::Mark& mark, Json value) {
    if (levels_.empty()) {
      root = std::move(value);
      return;
    }
    Level& level = levels_.back();
    if (level.value.is_array()) {
      level.value.push_back(std::move(value));
      return;
    }
    if (!level.has_key) refuse(mark, "a key that is not a scalar");
    level.value[level.key] = std::move(value);
    level.has_key = false;
  }
  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Json value) {
    check_anchor(mark, anchor);
    if (tag != "?" && tag != "!" && !tag.empty()) refuse(mark, "a tag");
    if (expects_key()) refuse(mark, "a key that is not a scalar");
    if (static_cast<int>(levels_.size()) >= max_depth_) {
      fail(ErrorKind::kInput, "{}: line {}: nests deeper than {} levels", where_, mark.line + 1, max_depth_);
    }
    levels_.push_back({std::move(value), {}, false});
  }
  void close() {
    Json value = std::move(levels_.back().value);
    levels_.pop_back();
    add(YAML::Mark::null_mark(), std::move(value));
  }

  const std::string& where_;
  int max_depth_;
  std::vector<Level> levels_;
};

}  // namespace

Json parse_yaml(std::string_view text, const std::string& where, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    fail(ErrorKind::kInput, "{}: {} bytes, expected at most {}", where, text.size(), limits.max_bytes);
  }
  if (text.find('\0') != std::string_view::npos) fail(ErrorKind::kInput, "{}: holds a zero byte", where);
  Builder builder(where, limits.max_depth);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) fail(ErrorKind::kInput, "{}: is empty, expected a map", where);
    const Json first = std::exchange(builder.root, Json());
    if (parser.HandleNextDocument(builder)) fail(ErrorKind::kInput, "{}: holds two documents, expected one", where);
    builder.root = first;
    builder.root.dump();  // throws where text is not UTF-8
  } catch (const YAML::Exception& error) {
    // The message is one line, whatever the text holds.
    std::string message = error.msg;
    std::replace_if(
        message.begin(), message.end(), [](char c) { return static_cast<unsigned char>(c) < 32; }, ' ');
    fail(ErrorKind::kInput, "{}: line {}, column {}: {}", where, error.mark.line + 1, error.mark.column + 1, message);
  } catch (const Json::exception&) {
    fail(ErrorKind::kInput, "{}: holds text that is not UTF-8", where);
  }
  return builder.root;
}

}  // namespace carousel::formats
