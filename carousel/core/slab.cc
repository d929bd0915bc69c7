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

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>

namespace carousel {
namespace {

constexpr size_t kSlabBytes = size_t{32} << 20;  // what is never written of it takes no memory
constexpr size_t kLargest = size_t{16} << 20;
constexpr size_t kSmallest = size_t{64} << 10;  // below, small pages do as well
constexpr size_t kAlignment = 256;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kShares = false;  // neighbours in a slab would hide from it who writes past an end
#else
constexpr bool kShares = true;
#endif

struct Slab {
  std::mutex mutex;
  std::weak_ptr<Storage> storage;  // owned by what lies in it
  size_t used = 0;
};

/// The one that `memory` is filling. Those of all memories: a few, and none is ever destroyed.
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

}  // namespace carousel
