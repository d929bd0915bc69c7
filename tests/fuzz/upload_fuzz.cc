// SPDX-License-Identifier: Apache-2.0
// Any bytes as the upload of a state: refused, or kept, gone on from, given back as a file and deleted. A checksum
// keeps most inputs out, so the first byte says whether a true file is sent, with the bytes that follow written over
// it.
#include <cstdint>
#include <cstring>
#include <string>

#include "tests/fuzz/served.h"

namespace {

using carousel::Json;

std::string id_of(const std::string& card) { return carousel::parse_json(card, "card").value("id", ""); }

/// A file that the server gave.
const std::string& true_file(carousel::serve::Served& served) {
  static const std::string file = [&] {
    const std::string id = id_of(served.ask("POST", "/v1/states", R"({"prompt": "Once upon a time"})"));
    return served.ask("GET", "/v1/states/" + id + "/file", "");
  }();
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static auto* const served = new carousel::serve::Served;  // never destroyed: the process ends with its thread
  if (size == 0) return 0;
  std::string file(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  if (bytes[0] % 2 == 1) {
    uint32_t at = 0;
    if (file.size() < sizeof at) return 0;
    std::memcpy(&at, file.data(), sizeof at);
    std::string altered = true_file(*served);
    file.erase(0, sizeof at);
    altered.replace(at % altered.size(), file.size(), file);
    file = std::move(altered);
  }
  const std::string id = id_of(served->ask("PUT", "/v1/states", file));
  if (id.empty()) return 0;
  served->ask("POST", "/v1/completions", Json{{"state", id}, {"prompt", "a"}, {"max_tokens", 1}}.dump());
  if (served->ask("GET", "/v1/states/" + id + "/file", "").empty()) std::abort();
  served->ask("DELETE", "/v1/states/" + id, "");
  return 0;
}
