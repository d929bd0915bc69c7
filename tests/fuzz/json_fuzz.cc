// SPDX-License-Identifier: Apache-2.0
// Any bytes as JSON: refused by an Error, or a value that survives printing, and that Fields reads without harm.
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/core/json.h"

namespace {

void read_fields(const carousel::Json& value) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const auto attempt = [](auto&& read) {
    try {
      read();
    } catch (const carousel::Error&) {
    }
  };
  attempt([&] {
    carousel::Fields fields(value, "fuzz");
    attempt([&] { fields.integer("a", -kMax, kMax); });
    attempt([&] { fields.number("a", -1e300, 1e300); });
    attempt([&] { fields.boolean("a"); });
    attempt([&] { fields.string("a"); });
    attempt([&] { fields.choice("a", {"x", "y"}, "x"); });
    attempt([&] { fields.strings("a", 4); });
    attempt([&] { fields.integers("a", 0, kMax, 4); });
    attempt([&] { fields.object("a"); });
    fields.finish();
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  try {
    const carousel::Json value = carousel::parse_json(text, "fuzz", {1 << 20, 16});
    if (carousel::brief(value).empty()) std::abort();
    read_fields(value);
    const std::string printed = value.dump();
    if (carousel::parse_json(printed, "printed", {1 << 24, 16}).dump() != printed) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
