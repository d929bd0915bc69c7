// SPDX-License-Identifier: Apache-2.0
// Slabs of weights: the next tensor of a memory is cut from the slab that this memory is filling.
//
// 1. There is one Slab per Memory. The map of them is read and changed under the mutex in current(); an entry is never
//    removed, so a reference to it stays valid.
// 2. storage and used of a Slab are read and written under its mutex.
// 3. used only grows while the storage lives. So no two tensors have a byte in common, and their owners need no lock.
// 4. A Slab holds its storage weakly: tensors own it, and the last one frees it. A call that finds it freed, or too
//    full, starts another.
#include "carousel/core/slab.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

namespace carousel {
namespace {

constexpr size_t kSlabBytes = size_t{32} << 20;  // a page of it that nobody writes takes no memory
constexpr size_t kLargest = size_t{16} << 20;    // a larger tensor has storage of its own
constexpr size_t kSmallest = size_t{64} << 10;   // so has a smaller one: small pages do as well there
constexpr size_t kAlignment = 256;               // a tensor in a slab begins at a multiple of this

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kShares = false;  // a write past a tensor's end would hit its neighbour in the slab, unseen
#else
constexpr bool kShares = true;
#endif

struct Slab {
  std::mutex mutex;
  std::weak_ptr<Storage> storage;  // the slab being filled; its tensors own it
  size_t used = 0;                 // bytes handed out from its start
};

/// The slab that `memory` is filling. There are few memories, so none of the entries is ever destroyed.
Slab& current(Memory& memory) {
  static std::mutex mutex;
  static auto& slabs = *new std::map<Memory*, Slab>;
  const std::lock_guard lock(mutex);
  return slabs[&memory];
}

}  // namespace

Tensor slab_bytes(int64_t count, Memory& memory) {
  const auto bytes = static_cast<size_t>(count);
  if (!kShares || memory.device() == Device::kMeta || bytes < kSmallest || bytes > kLargest) {
    return Tensor(Shape{count}, DType::kU8, memory);
  }
  Slab& slab = current(memory);
  const std::lock_guard lock(slab.mutex);
  std::shared_ptr<Storage> storage = slab.storage.lock();
  if (!storage || kSlabBytes - slab.used < bytes) {
    storage = std::make_shared<Storage>(memory, kSlabBytes);
    slab.storage = storage;
    slab.used = 0;
  }
  Tensor tensor(storage, slab.used, Shape{count}, DType::kU8);
  slab.used = std::min(kSlabBytes, (slab.used + bytes + kAlignment - 1) / kAlignment * kAlignment);
  return tensor;
}

void back_pages(ThreadPool& pool, std::byte* begin, size_t size_bytes) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
#if defined(MADV_POPULATE_WRITE)
  if (size_bytes < kHugePage) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(begin) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(begin) + size_bytes, huge = first / kHugePage;
  parallel_for(pool, static_cast<int64_t>((last - 1) / kHugePage - huge + 1), [&](int64_t i) {
    const uintptr_t from = std::max(first, (huge + static_cast<uintptr_t>(i)) * kHugePage);
    const uintptr_t to = std::min(last, (huge + static_cast<uintptr_t>(i) + 1) * kHugePage);
    ::madvise(reinterpret_cast<void*>(from), to - from, MADV_POPULATE_WRITE);  // where refused, writing backs them
  });
#endif
}

}  // namespace carousel
