// SPDX-License-Identifier: Apache-2.0
// A block's keys and values on their way through shared memory: items of 64 x 64 floats, in the order of the pages, of
// each page the keys and then the values. Before Hopper the threads copy an item when it is asked for.
//
// 1. Item i lies in slot i mod kSlots. full[slot] ends a phase when the item is there.
// 2. A thread of the first warp starts item i + kSlots once all threads have passed a barrier after their last look at
//    item i. Neighbouring lanes start neighbouring items: where a page lies is looked up in memory first.
// 3. An item with the row's own key or value is started after the block has written them (start_rest()).
#pragma once

#include "carousel/cuda/async.cuh"
#include "carousel/ops/attention/attention_call_cuda.cuh"

namespace carousel::cuda {
namespace {

template <int kDim>
struct Items {
  static constexpr int kOfKeys = kDim / 64, kOfPage = 2 * kOfKeys;  // a page's items of keys, and of both
  static constexpr int kFloats = 64 * 64, kSlots = 5;
  static constexpr size_t kBytes = kSlots * (kFloats * sizeof(float) + sizeof(uint64_t));

  const AttentionCall& call;
  const RowWork& work;
  int64_t first_page;
  int count, started;
  float* slots;
  uint32_t full;

  /// Starts the first items of pages `first` to `end`, but not those of the last page where the block `writes` to it.
  __device__ Items(char* memory, const AttentionCall& attention, const RowWork& row, int64_t first, int64_t end,
                   bool writes)
      : call(attention),
        work(row),
        first_page(first),
        count(static_cast<int>(end - first) * kOfPage),
        slots(reinterpret_cast<float*>(memory)),
        full(shared_address(memory + kSlots * kFloats * sizeof(float))) {
    started = min(kSlots, count - (writes ? kOfPage : 0));
#if defined(CAROUSEL_SM90A)
    if (threadIdx.x >= kWarp) return;
    if (threadIdx.x < kSlots) init_barrier(full + 8 * threadIdx.x, 1);
    publish_barriers();
    if (static_cast<int>(threadIdx.x) < started) start(static_cast<int>(threadIdx.x));
#endif
  }
  /// After a barrier of the block that follows the constructor.
  __device__ void start_rest() {
    const auto i = static_cast<int>(threadIdx.x);
    if (started <= i && i < kSlots) start(i);
  }
  __device__ const float* source(int i) const {
    const int64_t page = first_page + i / kOfPage;
    const int part = i % kOfPage;
    const float* const from = part < kOfKeys ? call.k_page(work.s, page) : call.v_page(work.s, page);
    return from + (work.g * kOfKeys + part % kOfKeys) * kFloats;
  }
  __device__ void start(int i) {
#if defined(CAROUSEL_SM90A)
    if (i >= count) return;
    arrive_expecting(full + 8 * (i % kSlots), kFloats * 4);
    copy_bytes(shared_address(slots + i % kSlots * kFloats), source(i), kFloats * 4, full + 8 * (i % kSlots));
#endif
  }
  /// Item i, which is there. All threads call this for the keys of a page, or for its values, at the same time.
  __device__ const float* item(int i) {
#if defined(CAROUSEL_SM90A)
    await(full + 8 * (i % kSlots), i / kSlots & 1);
#else
    __syncthreads();
    const int first = i / kOfKeys * kOfKeys;
    for (int j = first; j < first + kOfKeys; ++j) {
      const float* const from = source(j);
      for (int at = static_cast<int>(threadIdx.x); at < kFloats; at += static_cast<int>(blockDim.x)) {
        slots[j % kSlots * kFloats + at] = from[at];
      }
    }
    __syncthreads();
#endif
    return slots + i % kSlots * kFloats;
  }
  /// Part `part` of the keys or values of the page'th page.
  __device__ const float* keys(int page, int part) { return item(page * kOfPage + part); }
  __device__ const float* values(int page, int part) { return item(page * kOfPage + kOfKeys + part); }
  /// After a barrier that follows the scores of the page: its keys and the values before them make room.
  __device__ void done_with_keys(int page) {
    const int lane = static_cast<int>(threadIdx.x), done = page * kOfPage - kOfKeys + lane;
    if (lane < kOfPage && done >= 0) start(done + kSlots);
  }
};

}  // namespace
}  // namespace carousel::cuda
