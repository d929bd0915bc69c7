// SPDX-License-Identifier: Apache-2.0
// Any bytes as a file of torch.save: refused by an Error, or every byte of every tensor can be read.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/formats/torch_zip.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::vector<uint8_t> copy(bytes, bytes + size);  // so that reading past the end is seen
  try {
    const auto file = carousel::formats::parse_torch_zip(std::as_bytes(std::span(copy)), "fuzz", size % 16 == 0);
    for (const carousel::formats::TensorEntry& entry : file.entries) {
      if (entry.size_bytes > size) std::abort();
      if (entry.load().size_bytes() != entry.size_bytes) std::abort();
    }
    static_cast<void>(file.hyper_parameters.dump());
  } catch (const carousel::Error&) {
  }
  return 0;
}
