// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/ctx.h"

namespace carousel {

void Seqs::bring_to(Memory& memory) {
  if (!memory.is_apart()) return;
  std::vector<int64_t> both = offsets;
  both.insert(both.end(), pos.begin(), pos.end());
  const auto count = static_cast<int64_t>(both.size());
  if (!there.defined() || &there.memory() != &memory || there.count() < count) {
    there = Tensor(Shape{2 * count}, DType::kI64, memory);
  }
  Memory::copy(Memory::host(), reinterpret_cast<const std::byte*>(both.data()), memory,
               static_cast<std::byte*>(there.raw()), both.size() * sizeof(int64_t));
}

}  // namespace carousel
