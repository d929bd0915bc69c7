// SPDX-License-Identifier: Apache-2.0
// Bounded JSON over nlohmann-json, and Fields: an object read key by key, so that a key nobody read is an error.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace carousel {

using Json = nlohmann::json;

struct JsonLimits {
  size_t max_bytes = size_t{256} << 20;
  int max_depth = 64;
};

/// Parses one JSON value. `where` names the source in messages.
/// Throws Error(kInput): syntax (with byte position), too deep, too large, a key twice in one object, trailing text.
/// The non-standard {"__float__": "Infinity"|"-Infinity"|"NaN"} of transformers 5 is read as that number.
Json parse_json(std::string_view text, const std::string& where, const JsonLimits& limits = {});
Json read_json_file(const std::string& path, const JsonLimits& limits = {});

/// Reads a whole regular file. Throws Error(kIo) naming the path; Error(kInput) beyond max_bytes.
std::string read_text_file(const std::string& path, size_t max_bytes);

/// Writes `text` under `path`, whole or not at all (a temporary file, then a rename). Throws Error(kIo).
void write_text_file(const std::string& path, std::string_view text);

/// Checked reading of one JSON object. Every getter marks its key as known; a key that is absent or null gives the
/// default (or, without one, an error). finish() refuses keys nobody asked for and lists the known ones.
class Fields {
 public:
  Fields(const Json& object, std::string where);  // throws kInput when not an object

  bool has(const char* key) const;  // present and not null; does not mark the key as known
  int64_t integer(const char* key, int64_t min, int64_t max, std::optional<int64_t> fallback = {});
  double number(const char* key, double min, double max, std::optional<double> fallback = {});  // finite
  bool boolean(const char* key, std::optional<bool> fallback = {});
  std::string string(const char* key, std::optional<std::string> fallback = {});
  std::string choice(const char* key, const std::vector<std::string>& choices, std::optional<std::string> fallback);
  std::vector<std::string> strings(const char* key, size_t max_count);  // absent: empty
  std::vector<int64_t> integers(const char* key, int64_t min, int64_t max, size_t max_count);
  Json object(const char* key);                          // absent: {}
  const Json* raw(const char* key);                      // nullptr when absent or null
  const Json* present(const char* key);                  // nullptr when absent; null is a value ("no cap")
  void ignore(std::initializer_list<const char*> keys);  // known, without effect here
  bool knows(const std::string& key) const;              // some getter asked for it
  void finish() const;

  const std::string& where() const { return where_; }

 private:
  const Json* find(const char* key);
  [[noreturn]] void wrong(const char* key, const Json& got, const std::string& expected) const;
  [[noreturn]] void missing(const char* key) const;

  Json object_;
  std::string where_;
  std::vector<std::string> known_;
};

/// A JSON value shortened for a message.
std::string brief(const Json& value);

}  // namespace carousel
