// SPDX-License-Identifier: Apache-2.0
// Any text as a wiring for three inputs: refused by an Error, or a circuit whose layers hold every neuron once.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "carousel/blocks/wiring.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using carousel::blocks::Wiring;
  constexpr int64_t kInputs = 3;
  constexpr size_t kMostDigits = 4;  // of a number: larger circuits only cost time
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  size_t digits = 0;
  for (const char c : text) {
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    if (digits >= kMostDigits) return 0;
  }
  try {
    const Wiring wiring = carousel::blocks::make_wiring(carousel::parse_json(text, "fuzz"), kInputs, "fuzz");
    size_t neurons = 0;
    for (const auto& layer : wiring.layers) neurons += layer.size();
    const auto units = static_cast<size_t>(wiring.units);
    if (neurons != units || wiring.adjacency.size() != units * units) std::abort();
    if (wiring.sensory.size() != kInputs * units || wiring.synapse_count() < 0) std::abort();
  } catch (const carousel::Error&) {
  }
  return 0;
}
