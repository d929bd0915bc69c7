// SPDX-License-Identifier: Apache-2.0
// The host's memory under another identity, for weights that are read and dropped while others stay. Slabs
// (core/slab.h) belong to one memory, so what passes has slabs of its own, which are freed with it.
#pragma once

#include "carousel/core/memory.h"

namespace carousel {

/// It is never destroyed.
Memory& passing_memory();

}  // namespace carousel
