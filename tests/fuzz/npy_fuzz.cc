// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .npy file: refused by an Error, or an array no larger than the file accounts for.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/formats/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::vector<uint8_t> copy(bytes, bytes + size);  // so that reading past the end is seen
  try {
    const carousel::Tensor values = carousel::formats::parse_npy(std::as_bytes(std::span(copy)), "fuzz");
    if (static_cast<size_t>(values.count()) > size) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
