// SPDX-License-Identifier: Apache-2.0
// Any bytes as blocks of any type: whole blocks decode within their bytes; finite values survive encoding to Q8_0 and
// Q4_0 as values no larger than half a step and a clipped extreme allow. The first byte chooses the type.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "carousel/formats/ggml_blocks.h"

namespace {

using carousel::formats::GgmlType;

void encode(const char* name, const std::vector<float>& values) {
  const GgmlType& type = *carousel::formats::find_ggml_type(std::string(name));
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> blocks(*type.bytes_of(count));
  std::vector<float> decoded(values.size());
  if (!carousel::formats::encode_ggml(type, values.data(), count, blocks.data())) std::abort();
  carousel::formats::decode_ggml(type, blocks.data(), count, decoded.data());
  for (size_t block = 0; block < values.size(); block += 32) {
    float largest = 0;
    for (size_t i = block; i < block + 32; ++i) largest = std::max(largest, std::fabs(values[i]));
    if (largest > 65504.0F || largest < 1e-2F) continue;  // scales of subnormal halves are coarse
    for (size_t i = block; i < block + 32; ++i) {
      if (!(std::fabs(decoded[i] - values[i]) <= largest)) std::abort();
      if (values[i] == 0 && decoded[i] != 0) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size < 1) return 0;
  const GgmlType* type = carousel::formats::find_ggml_type(static_cast<uint32_t>(bytes[0] % 42));
  if (type == nullptr || (!type->blocks && !(type->plain && carousel::is_float(*type->plain)))) return 0;
  const size_t blocks = std::min<size_t>((size - 1) / type->block_bytes, 64);
  const std::vector<uint8_t> copy(bytes + 1, bytes + 1 + blocks * type->block_bytes);
  std::vector<float> values(blocks * static_cast<size_t>(type->block));
  carousel::formats::decode_ggml(*type, reinterpret_cast<const std::byte*>(copy.data()),
                                 static_cast<int64_t>(values.size()), values.data());
  for (float& value : values) value = std::isfinite(value) ? value : 0;
  values.resize(values.size() / 32 * 32);
  encode("Q8_0", values);
  encode("Q4_0", values);
  return 0;
}
