// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: refused by an Error, or every byte of every tensor can be read.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::vector<uint8_t> copy(bytes, bytes + size);  // so that reading past the end is seen
  try {
    const auto file = carousel::formats::SafetensorsFile::parse(std::as_bytes(std::span(copy)), "fuzz");
    size_t total = 0;
    for (const carousel::formats::TensorEntry& entry : file.entries()) {
      if (file.find(entry.name) != &entry) std::abort();
      if (entry.load().size_bytes() != entry.size_bytes || entry.view().count() < 0) std::abort();
      static_cast<void>(entry.first_not_finite());
      total += entry.size_bytes;
    }
    if (total > size) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
