// SPDX-License-Identifier: Apache-2.0
// Blocks are cut from the front of chunks. A released block waits for the next request of its size; a chunk goes back
// to the system with its last block.
//
// 1. Every field below is read and written under the mutex. A block belongs to its caller from the return of
//    allocate_huge_block to the call of release_huge_block.
// 2. A block in `free` lies in a chunk of `chunks`, and is not counted in its `live`.
// 3. Bytes that were never handed out are zero, as the system maps them; a block that was is zeroed before it is again.
#include "carousel/core/huge_blocks.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <vector>

namespace carousel {
namespace {

constexpr size_t kChunkBytes = size_t{16} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kGrain = 4096;

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

struct Chunk {
  size_t used = 0;  // bytes from the front that were handed out
  size_t live = 0;  // blocks that callers hold
};

struct Blocks {
  std::mutex mutex;
  std::map<std::byte*, Chunk> chunks;                            // by address; each of kChunkBytes
  std::map<size_t, std::vector<std::byte*>> free;                // released blocks by size
  std::map<std::byte*, Chunk>::iterator current = chunks.end();  // the chunk that blocks are cut from
};

/// Never destroyed: storage with static lifetime may be released after it.
Blocks& blocks() {
  static Blocks& blocks = *new Blocks;
  return blocks;
}

/// kChunkBytes at a multiple of a huge page; null where the system refuses.
std::byte* map_chunk() {
  void* mapped = ::mmap(nullptr, kChunkBytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t before = round_up(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
  if (before > 0) ::munmap(begin, before);
  if (before < kHugePage) ::munmap(begin + before + kChunkBytes, kHugePage - before);
  ::madvise(begin + before, kChunkBytes, MADV_HUGEPAGE);
  return begin + before;
}

std::map<std::byte*, Chunk>::iterator chunk_of(Blocks& all, std::byte* block) {
  return std::prev(all.chunks.upper_bound(block));
}

/// Gives a chunk without live blocks back, and forgets the free blocks in it.
void unmap(Blocks& all, std::map<std::byte*, Chunk>::iterator chunk) {
  std::byte* const begin = chunk->first;
  for (auto& [size, list] : all.free) {
    std::erase_if(list, [&](const std::byte* block) { return block >= begin && block < begin + kChunkBytes; });
  }
  all.chunks.erase(chunk);
  ::munmap(begin, kChunkBytes);
}

}  // namespace

std::byte* allocate_huge_block(size_t size_bytes) {
  const size_t size = round_up(size_bytes, kGrain);
  Blocks& all = blocks();
  std::byte* block = nullptr;
  {
    const std::lock_guard lock(all.mutex);
    std::vector<std::byte*>& released = all.free[size];
    if (released.empty()) {
      if (all.current == all.chunks.end() || kChunkBytes - all.current->second.used < size) {
        std::byte* const chunk = map_chunk();
        if (chunk == nullptr) return nullptr;
        all.current = all.chunks.emplace(chunk, Chunk{}).first;
      }
      Chunk& chunk = all.current->second;
      block = all.current->first + chunk.used;
      chunk.used += size;
      ++chunk.live;
      return block;
    }
    block = released.back();
    released.pop_back();
    ++chunk_of(all, block)->second.live;
  }
  std::memset(block, 0, size_bytes);
  return block;
}

void release_huge_block(std::byte* block, size_t size_bytes) noexcept {
  Blocks& all = blocks();
  const std::lock_guard lock(all.mutex);
  const auto chunk = chunk_of(all, block);
  --chunk->second.live;
  if (chunk->second.live == 0 && chunk != all.current) return unmap(all, chunk);
  all.free[round_up(size_bytes, kGrain)].push_back(block);
}

}  // namespace carousel
