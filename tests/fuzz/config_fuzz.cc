// SPDX-License-Identifier: Apache-2.0
// Any bytes as config.json: refused by an Error, or a model whose parameters and states can be counted.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/config.h"
#include "carousel/model/load.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  try {
    const carousel::Json json = carousel::parse_json(text, "fuzz", {1 << 20, 64});
    const carousel::model::ModelConfig config = carousel::model::parse_config(json, "fuzz");
    const carousel::model::ModelSize measured = carousel::model::measure(config, "fuzz");
    if (measured.parameters < 0) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
