// SPDX-License-Identifier: Apache-2.0
// What folders and Redis have in common: ids, manifests, errors, and the address of the latter.
#include "carousel/serve/shelf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "carousel/core/error.h"

namespace carousel::serve {
namespace {

constexpr const char* kScheme = "redis://";

/// The value of two hexadecimal digits; -1: they are none.
int hex_byte(const std::string& digits) {
  if (digits.size() != 2 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) return -1;
  return static_cast<int>(std::strtol(digits.c_str(), nullptr, 16));
}

/// "%40" is "@": a password may hold what ends it.
std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const int byte = text[i] == '%' ? hex_byte(text.substr(i + 1, 2)) : -1;
    out += byte < 0 ? text[i] : static_cast<char>(byte);
    if (byte >= 0) i += 2;
  }
  return out;
}

/// A number from 0 to `most`; -1: the text is none.
int number_of(const std::string& text, int most) {
  if (text.empty() || text.size() > 5 || text.find_first_not_of("0123456789") != text.npos) return -1;
  const int number = std::atoi(text.c_str());
  return number <= most ? number : -1;
}

}  // namespace

bool is_redis(const std::string& place) { return place.starts_with(kScheme); }

std::string RedisAddress::name() const {
  const bool brackets = host.find(':') != host.npos;
  return fmt::format("{}{}:{}/{}", kScheme, brackets ? "[" + host + "]" : host, port, database);
}

RedisAddress parse_redis(const std::string& url) {
  RedisAddress out;
  std::string rest = url.substr(std::string_view(kScheme).size());
  const size_t at = rest.rfind('@');
  if (at != rest.npos) {
    const std::string who = rest.substr(0, at);
    const size_t colon = std::min(who.find(':'), who.size());
    out.user = unescaped(who.substr(0, colon));
    out.password = unescaped(who.substr(std::min(colon + 1, who.size())));
    rest.erase(0, at + 1);
  }
  const size_t slash = rest.find('/');
  if (slash != rest.npos && slash + 1 < rest.size()) out.database = number_of(rest.substr(slash + 1), 1 << 16);
  std::string place = rest.substr(0, slash);
  const size_t bracket = place.rfind(']'), colon = place.rfind(':');
  if (colon != place.npos && (bracket == place.npos || colon > bracket)) {
    out.port = number_of(place.substr(colon + 1), 65535);
    place.resize(colon);
  }
  if (place.starts_with('[') && place.ends_with(']')) place = place.substr(1, place.size() - 2);
  out.host = place;
  if (out.host.empty() || out.port < 1 || out.database < 0) {
    fail(ErrorKind::kUsage, "--store: got \"{}{}\", expected redis://[:PASSWORD@]HOST:PORT/DATABASE", kScheme, rest);
  }
  return out;
}

bool is_id(const std::string& id) {
  constexpr size_t kDigits = 32;
  const size_t dash = id.find('-');
  if (dash == id.npos || dash == 0 || id.size() != dash + 1 + kDigits) return false;
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  const auto end = id.begin() + static_cast<std::ptrdiff_t>(dash);
  return std::all_of(id.begin(), end, is_letter) && std::all_of(end + 1, id.end(), is_digit);
}

Json manifest_of(const KeptState& kept, const std::string& fingerprint) {
  return {{"format", "carousel.stored"}, {"model", fingerprint},    {"parent", kept.parent},
          {"owner", kept.owner},         {"tokens", kept.tokens},   {"bytes", kept.bytes},
          {"created", kept.created},     {"expires", kept.expires}, {"answer", kept.answer}};
}

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::optional<StateCard> read_manifest(const std::string& text, const std::string& id, std::string& fingerprint) {
  constexpr int64_t kAny = INT64_MAX;
  JsonLimits limits;
  limits.max_bytes = kMostManifest;
  try {
    const Json json = parse_json(text, "manifest", limits);
    Fields fields(json, "manifest");
    StateCard card;
    card.id = id;
    card.stored = true;
    fingerprint = fields.string("model");
    card.parent = fields.string("parent");
    card.owner = fields.string("owner");
    card.tokens = fields.integer("tokens", 0, kAny);
    card.bytes = static_cast<size_t>(fields.integer("bytes", 0, kAny));
    card.created = fields.integer("created", 0, kAny);
    card.expires = fields.integer("expires", 0, kAny);
    if (const Json* const answer = fields.raw("answer")) card.answer = *answer;
    return card;
  } catch (const Error&) {
    return {};
  }
}

model::SavedState load_file(const std::string& path, const model::Model& model) {
  try {
    return model::load_state(path, model);
  } catch (const Error& error) {
    std::string message = error.what();
    const size_t at = message.find(path);
    if (at != message.npos) message.replace(at, path.size(), "state");
    throw Error(error.kind(), message);
  }
}

HttpError full_error(const std::string& what) {
  return {507, "keep_state: " + what, "keep_state", "store_full", {{"x-should-retry", "false"}}};
}

HttpError unavailable_error(const std::string& what) {
  return {503, "the store " + what, "", "store_unavailable", {{"Retry-After", "1"}}};
}

}  // namespace carousel::serve
