// SPDX-License-Identifier: Apache-2.0
// Any bytes as YAML: refused by an Error, or a value that JSON can hold.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/formats/yaml.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  try {
    const carousel::Json value = carousel::formats::parse_yaml(text, "fuzz", {1 << 16, 16});
    if (value.dump().empty()) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
