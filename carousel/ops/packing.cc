// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/packing.h"

namespace carousel {

void Packing::finish() const {
  if (here_.raw() == storage_.raw()) return;
  Memory::copy(Memory::host(), bytes(), storage_.memory(), static_cast<std::byte*>(storage_.raw()),
               storage_.size_bytes());
}

}  // namespace carousel
