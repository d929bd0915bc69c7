// SPDX-License-Identifier: Apache-2.0
// A JSON parser with bounds, files of text read and written whole, and the checked getters of Fields.
#include "carousel/core/json.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>

#include "carousel/core/draft.h"
#include "carousel/core/error.h"

namespace carousel {
namespace {

// Builds the value as nlohmann's own DOM builder does, but refuses depth beyond the limit and duplicate keys.
class BoundedBuilder {
 public:
  BoundedBuilder(const std::string& where, int max_depth) : where_(where), max_depth_(max_depth) {}

  bool null() { return put(nullptr); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(Json::number_integer_t value) { return put(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return put(value); }
  bool number_float(Json::number_float_t value, const std::string&) { return put(value); }
  bool string(std::string& value) { return put(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    Json& object = *stack_.back();
    if (object.contains(name)) fail(ErrorKind::kInput, "{}: key \"{}\" appears twice in one object", where_, name);
    slot_ = &object[name];
    return true;
  }
  bool parse_error(size_t position, const std::string&, const Json::exception& error) {
    std::string reason = error.what();
    if (const size_t colon = reason.rfind("; expected"); colon != std::string::npos) reason.resize(colon);
    if (const size_t bracket = reason.find("] "); bracket != std::string::npos) reason.erase(0, bracket + 2);
    if (reason.size() > 200) reason.resize(200);
    for (char& c : reason) c = static_cast<unsigned char>(c) < 32 ? ' ' : c;
    fail(ErrorKind::kInput, "{}: not valid JSON at byte {}: {}", where_, position, reason);
  }

  Json root;

 private:
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  Json* place(Json value) {
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool open(Json empty) {
    if (static_cast<int>(stack_.size()) >= max_depth_) {
      fail(ErrorKind::kInput, "{}: JSON nests deeper than {} levels", where_, max_depth_);
    }
    stack_.push_back(place(std::move(empty)));
    return true;
  }
  bool close() {
    Json& closed = *stack_.back();
    stack_.pop_back();
    if (closed.is_object() && closed.size() == 1 && closed.contains("__float__")) {
      const Json name = closed["__float__"];
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      if (name == "Infinity") closed = kInfinity;
      if (name == "-Infinity") closed = -kInfinity;
      if (name == "NaN") closed = std::numeric_limits<double>::quiet_NaN();
    }
    return true;
  }

  const std::string& where_;
  int max_depth_;
  std::vector<Json*> stack_;
  Json* slot_ = nullptr;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    fail(ErrorKind::kInput, "{}: JSON of {} bytes, expected at most {}", where, text.size(), limits.max_bytes);
  }
  // nlohmann-json takes a zero byte for the end of the text, and would pass over whatever follows it.
  if (const size_t zero = text.find('\0'); zero != text.npos) {
    fail(ErrorKind::kInput, "{}: not valid JSON at byte {}: a zero byte", where, zero + 1);
  }
  BoundedBuilder builder(where, limits.max_depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  return parse_json(read_text_file(path, limits.max_bytes), path, limits);
}

std::string read_text_file(const std::string& path, size_t max_bytes) {
  struct stat status {};
  // Asked before opening: opening a pipe would wait for its writer.
  if (::stat(path.c_str(), &status) != 0) fail(ErrorKind::kIo, "{}: cannot open: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::kInput, "{}: not a regular file", path);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) fail(ErrorKind::kIo, "{}: cannot open: {}", path, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) {
    text.append(buffer, count);
    if (text.size() > max_bytes) fail(ErrorKind::kInput, "{}: larger than {} bytes", path, max_bytes);
  }
  if (std::ferror(file.get())) fail(ErrorKind::kIo, "{}: cannot read: {}", path, std::strerror(errno));
  return text;
}

void write_text_file(const std::string& path, std::string_view text) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {  // the rename would take its place
    fail(ErrorKind::kIo, "{}: exists and is no regular file, expected one or none to write", path);
  }
  Draft draft;
  take_draft_of(path, Rivals::kReplace, draft);
  std::FILE* file = std::fopen(draft.path().c_str(), "wb");
  const bool written = file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = file != nullptr && std::fclose(file) == 0;
  if (!written || !closed || std::rename(draft.path().c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    draft.remove();
    fail(ErrorKind::kIo, "{}: cannot write: {}", path, reason);
  }
  draft.let_go();
}

std::string brief(const Json& value) {
  // dump() writes what JSON cannot hold as null.
  if (value.is_number_float() && !std::isfinite(value.get<double>())) return fmt::format("{}", value.get<double>());
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

Fields::Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object_.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", where_, brief(object_));
}

bool Fields::has(const char* key) const {
  const auto it = object_.find(key);
  return it != object_.end() && !it->is_null();
}

const Json* Fields::find(const char* key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
  return has(key) ? &*object_.find(key) : nullptr;
}

void Fields::wrong(const char* key, const Json& got, const std::string& expected) const {
  fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected {}", where_, key, brief(got), expected);
}
void Fields::missing(const char* key) const {
  fail(ErrorKind::kInput, "{}: \"{}\" is missing and has no default", where_, key);
}

int64_t Fields::integer(const char* key, int64_t min, int64_t max, std::optional<int64_t> fallback) {
  const Json* value = find(key);
  if (value == nullptr) {
    if (!fallback) missing(key);
    return *fallback;
  }
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  if (!fits || value->get<int64_t>() < min || value->get<int64_t>() > max) {
    wrong(key, *value, fmt::format("an integer from {} to {}", min, max));
  }
  return value->get<int64_t>();
}

namespace {

// "from 0 to 1" includes its ends. A bound that is the neighbour of a shorter number excludes that one.
std::string number_range(double min, double max) {
  const auto shorter = [](double bound) { return std::strtod(fmt::format("{:g}", bound).c_str(), nullptr); };
  const double above = shorter(min), below = shorter(max);
  const bool open_above = min != above && std::nextafter(above, min) == min && min > above;
  const bool open_below = max != below && std::nextafter(below, max) == max && max < below;
  if (!open_above && !open_below) return fmt::format("a number from {:g} to {:g}", min, max);
  return fmt::format("a number {} {:g} and {} {:g}", open_above ? ">" : ">=", above, open_below ? "<" : "<=", below);
}

}  // namespace

double Fields::number(const char* key, double min, double max, std::optional<double> fallback) {
  const Json* value = find(key);
  if (value == nullptr) {
    if (!fallback) missing(key);
    return *fallback;
  }
  const bool fits = value->is_number() && std::isfinite(value->get<double>());
  if (!fits || value->get<double>() < min || value->get<double>() > max) {
    wrong(key, *value, number_range(min, max));
  }
  return value->get<double>();
}

bool Fields::boolean(const char* key, std::optional<bool> fallback) {
  const Json* value = find(key);
  if (value == nullptr) {
    if (!fallback) missing(key);
    return *fallback;
  }
  if (!value->is_boolean()) wrong(key, *value, "true or false");
  return value->get<bool>();
}

std::string Fields::string(const char* key, std::optional<std::string> fallback) {
  const Json* value = find(key);
  if (value == nullptr) {
    if (!fallback) missing(key);
    return *fallback;
  }
  if (!value->is_string()) wrong(key, *value, "a string");
  return value->get<std::string>();
}

std::string Fields::choice(const char* key, const std::vector<std::string>& choices,
                           std::optional<std::string> fallback) {
  const std::string value = string(key, std::move(fallback));
  if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
    wrong(key, value, fmt::format("one of: {}", fmt::join(choices, ", ")));
  }
  return value;
}

std::vector<std::string> Fields::strings(const char* key, size_t max_count) {
  std::vector<std::string> out;
  const Json* value = find(key);
  if (value == nullptr) return out;
  if (!value->is_array() || value->size() > max_count) {
    wrong(key, *value, fmt::format("a list of at most {} strings", max_count));
  }
  for (const Json& item : *value) {
    if (!item.is_string()) wrong(key, item, "a string in the list");
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::vector<int64_t> Fields::integers(const char* key, int64_t min, int64_t max, size_t max_count) {
  std::vector<int64_t> out;
  const Json* value = find(key);
  if (value == nullptr) return out;
  if (!value->is_array() || value->size() > max_count) {
    wrong(key, *value, fmt::format("a list of at most {} integers", max_count));
  }
  for (const Json& item : *value) {
    const bool fits = item.is_number_integer() && !(item.is_number_unsigned() && item.get<uint64_t>() > INT64_MAX);
    if (!fits || item.get<int64_t>() < min || item.get<int64_t>() > max) {
      wrong(key, item, fmt::format("integers from {} to {} in the list", min, max));
    }
    out.push_back(item.get<int64_t>());
  }
  return out;
}

Json Fields::object(const char* key) {
  const Json* value = find(key);
  if (value == nullptr) return Json::object();
  if (!value->is_object()) wrong(key, *value, "an object");
  return *value;
}

const Json* Fields::raw(const char* key) { return find(key); }

const Json* Fields::present(const char* key) {
  find(key);
  const auto it = object_.find(key);
  return it == object_.end() ? nullptr : &*it;
}

void Fields::ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) find(key);
}

bool Fields::knows(const std::string& key) const {
  return std::find(known_.begin(), known_.end(), key) != known_.end();
}

void Fields::finish() const {
  for (const auto& [key, value] : object_.items()) {
    if (knows(key)) continue;
    std::vector<std::string> sorted = known_;
    std::sort(sorted.begin(), sorted.end());
    fail(ErrorKind::kInput, "{}: unknown key \"{}\"; known keys: {}", where_, key, fmt::join(sorted, ", "));
  }
}

}  // namespace carousel
