// SPDX-License-Identifier: Apache-2.0
// Memory of weights. Matrices of a few hundred kilobytes would lie on small pages, and a read stream over them spend
// its time on translations: they share slabs of huge pages.
#pragma once

#include "carousel/core/tensor.h"

namespace carousel {

/// Fresh zeroed bytes [count] u8 of `memory`, 64-byte aligned, for what lives as long as a model does. Neighbours in
/// the order of the calls share a slab, which is given back with the last of them; large or tiny ones have storage of
/// their own. Any thread may call it. Throws Error(kIo) if the memory cannot be had.
Tensor slab_bytes(int64_t count, Memory& memory = Memory::host());

}  // namespace carousel
