// SPDX-License-Identifier: Apache-2.0
// Blocks of host memory of some hundred kilobytes on huge pages: pages of keys and values, states, activations. On
// small pages a pass over them would spend its time on translations of addresses.
#pragma once

#include <cstddef>

namespace carousel {

/// Sizes that these blocks have: smaller ones are of no matter, larger ones have mappings of their own.
constexpr size_t kLeastHugeBlock = size_t{64} << 10, kMostHugeBlock = (size_t{4} << 20) - 1;

/// `size_bytes` zeroed bytes, aligned to 4 KiB; null where the system refuses. Any thread may call these functions.
std::byte* allocate_huge_block(size_t size_bytes);
void release_huge_block(std::byte* block, size_t size_bytes) noexcept;

}  // namespace carousel
