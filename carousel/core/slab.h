// SPDX-License-Identifier: Apache-2.0
// Memory of weights. Matrices of a few hundred kilobytes would lie on small pages, and a read stream over them would
// spend its time on translations: so they share slabs of huge pages.
#pragma once

#include "carousel/core/tensor.h"

namespace carousel {

/// Fresh zeroed bytes [count] u8 of `memory`, 64-byte aligned, for what lives as long as a model does. Tensors of
/// neighbouring calls share a slab, which is freed with the last of them; a large or a tiny tensor has storage of its
/// own. Any thread may call it. Throws Error(kIo) where the system refuses the memory.
Tensor slab_bytes(int64_t count, Memory& memory = Memory::host());

}  // namespace carousel
