// SPDX-License-Identifier: Apache-2.0
// Memory of weights. Matrices of a few hundred kilobytes would lie on small pages, and a read stream over them would
// spend its time on translations: so they share slabs of huge pages.
#pragma once

#include "carousel/core/parallel.h"
#include "carousel/core/tensor.h"

namespace carousel {

/// Fresh zeroed bytes [count] u8 of `memory`, 64-byte aligned, for what lives as long as a model does. Tensors of
/// neighbouring calls share a slab, which is freed with the last of them; a large or a tiny tensor has storage of its
/// own. Any thread may call it. Throws Error(kIo) where the system refuses the memory.
Tensor slab_bytes(int64_t count, Memory& memory = Memory::host());

/// Has the system back [begin, begin + size_bytes) of the host's memory before threads write it, one huge page per
/// task. Two threads that write the same fresh page are each given one, both are cleared, and one is thrown away. The
/// bytes keep their values.
void back_pages(ThreadPool& pool, std::byte* begin, size_t size_bytes);

}  // namespace carousel
