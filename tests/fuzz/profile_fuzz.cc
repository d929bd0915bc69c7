// SPDX-License-Identifier: Apache-2.0
// Any bytes as a numeric profile: refused by an Error, or a profile that, written out, reads back as it was.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  try {
    const carousel::Json json = carousel::parse_json(text, "fuzz", {1 << 16, 16});
    const carousel::Numerics numerics = carousel::model::parse_profile(json, "fuzz");
    const std::string written = carousel::model::profile_json(numerics).dump();
    if (carousel::model::parse_profile(carousel::parse_json(written, "written"), "again") != numerics) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
