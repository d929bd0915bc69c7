// SPDX-License-Identifier: Apache-2.0
// Any bytes as model.safetensors.index.json: refused by an Error, or every shard is a plain name in the folder.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/formats/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  try {
    for (const auto& [tensor, shard] : carousel::formats::parse_index(text, "fuzz")) {
      if (shard.empty() || shard == ".." || shard.find('/') != shard.npos || shard.find('\0') != shard.npos) {
        std::abort();
      }
    }
  } catch (const carousel::Error&) {
  }
  return 0;
}
