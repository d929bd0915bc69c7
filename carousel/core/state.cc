// SPDX-License-Identifier: Apache-2.0
// A State owns its memory by reference count: one block for all fixed tensors, one per page of a per-token tensor.
//
// 1. A block or page with more than one owner is never written. StateBatch::bind copies it first.
// 2. Between bind and unbind the tables point into the states' own memory. No state of the batch may be copied,
//    assigned or destroyed in between.
// 3. Only advance() moves a position. Rows that a forward wrote beyond it are not part of the state.
#include "carousel/core/state.h"

#include <fmt/format.h>
#include <atomic>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "carousel/core/error.h"
#include "carousel/core/finite.h"

namespace carousel {
namespace {

constexpr size_t kEntryAlignment = 64;

int64_t pages_for(int64_t rows) { return rows / kPageRows + (rows % kPageRows != 0); }

size_t spec_bytes(const StateSpec& spec) { return static_cast<size_t>(spec.shape.count()) * dtype_size(spec.dtype); }

/// Copies `size_bytes` at `offset_bytes` of `source` to host memory.
void read_bytes(const Storage& source, size_t offset_bytes, void* there, size_t size_bytes) {
  Memory::copy(source.memory(), source.bytes() + offset_bytes, Memory::host(), static_cast<std::byte*>(there),
               size_bytes);
}

/// `storage` itself where it lies in `memory`, else a copy there.
std::shared_ptr<Storage> brought_to(Memory& memory, const std::shared_ptr<Storage>& storage) {
  return storage == nullptr || &storage->memory() == &memory ? storage : storage->copy(memory);
}

Shape paged_shape(int64_t pages, const Shape& page) {
  Shape shape{pages};
  for (int i = 0; i < page.rank(); ++i) shape.push_back(page[i]);
  return shape;
}

}  // namespace

size_t StateLayout::add(const std::string& prefix, const std::vector<StateSpec>& specs) {
  const size_t first = entries_.size();
  for (const StateSpec& spec : specs) {
    CAROUSEL_ASSERT(spec.dtype == DType::kF32);
    Entry entry{prefix + "." + spec.name, spec, 0, 0};
    if (spec.per_token) {
      entry.index = paged_count_++;
      page_bytes_ += spec_bytes(spec);
    } else {
      entry.offset_bytes = fixed_bytes_;
      fixed_bytes_ += (spec_bytes(spec) + kEntryAlignment - 1) / kEntryAlignment * kEntryAlignment;
    }
    entries_.push_back(std::move(entry));
  }
  return first;
}

size_t StateLayout::bytes_at(int64_t pos) const {
  return fixed_bytes_ + static_cast<size_t>(pages_for(pos)) * page_bytes_;
}

size_t State::bytes() const {
  size_t total = fixed_ ? fixed_->size_bytes() : 0;
  for (const auto& list : pages_) {
    for (const auto& page : list) total += page->size_bytes();
  }
  return total;
}

// A state lies in one memory.
size_t State::bytes_in(const Memory& memory) const {
  const Storage* any = fixed_.get();
  for (const auto& list : pages_) {
    if (any == nullptr && !list.empty()) any = list.front().get();
  }
  return any != nullptr && &any->memory() == &memory ? bytes() : 0;
}

NamedTensors State::tensors(const StateLayout& layout) const {
  NamedTensors out;
  for (const StateLayout::Entry& entry : layout.entries()) {
    const StateSpec& spec = entry.spec;
    if (!spec.per_token) {
      const Tensor tensor =
          fixed_ ? Tensor(fixed_, entry.offset_bytes, spec.shape, spec.dtype) : Tensor(spec.shape, spec.dtype);
      out.push_back({entry.name, tensor.to(Memory::host())});
      continue;
    }
    const int64_t pages = pages_for(pos_);
    Tensor tensor(paged_shape(pages, spec.shape), spec.dtype);
    const size_t page_bytes = spec_bytes(spec);
    for (int64_t p = 0; p < pages; ++p) {
      read_bytes(*pages_[entry.index][static_cast<size_t>(p)], 0,
                 static_cast<std::byte*>(tensor.raw()) + static_cast<size_t>(p) * page_bytes, page_bytes);
    }
    out.push_back({entry.name, tensor});
  }
  return out;
}

State State::from(const NamedTensors& tensors, int64_t pos, const StateLayout& layout) {
  if (pos < 0) fail(ErrorKind::kState, "state: position is {}, expected 0 or more", pos);
  std::unordered_map<std::string, const Tensor*> by_name;
  for (const NamedTensor& named : tensors) {
    if (!by_name.emplace(named.name, &named.tensor).second) {
      fail(ErrorKind::kState, "state: tensor \"{}\" appears twice", named.name);
    }
  }
  for (const StateLayout::Entry& entry : layout.entries()) {
    const auto it = by_name.find(entry.name);
    if (it == by_name.end()) fail(ErrorKind::kState, "state: tensor \"{}\" is missing", entry.name);
    const Tensor& tensor = *it->second;
    const Shape expected = entry.spec.per_token ? paged_shape(pages_for(pos), entry.spec.shape) : entry.spec.shape;
    if (!(tensor.shape() == expected) || tensor.dtype() != entry.spec.dtype) {
      fail(ErrorKind::kState, "state: \"{}\" is {} {}, expected {} {} at position {}", entry.name,
           dtype_name(tensor.dtype()), tensor.shape().str(), dtype_name(entry.spec.dtype), expected.str(), pos);
    }
    if (const auto found = first_not_finite(tensor.raw(), tensor.dtype(), tensor.count())) {
      fail(ErrorKind::kState, "state: \"{}\" holds a value that is not finite at element {}", entry.name, *found);
    }
  }
  for (const NamedTensor& named : tensors) {
    const auto same_name = [&](const StateLayout::Entry& entry) { return entry.name == named.name; };
    if (std::none_of(layout.entries().begin(), layout.entries().end(), same_name)) {
      fail(ErrorKind::kState, "state: tensor \"{}\" belongs to no block of this model", named.name);
    }
  }

  State state;
  state.pos_ = pos;
  if (layout.fixed_bytes() > 0) state.fixed_ = std::make_shared<Storage>(Memory::host(), layout.fixed_bytes());
  state.pages_.resize(layout.paged_count());
  for (const StateLayout::Entry& entry : layout.entries()) {
    const Tensor& tensor = *by_name[entry.name];
    const size_t size_bytes = spec_bytes(entry.spec);
    if (!entry.spec.per_token) {
      std::memcpy(state.fixed_->bytes() + entry.offset_bytes, tensor.raw(), size_bytes);
      continue;
    }
    for (int64_t p = 0; p < tensor.dim(0); ++p) {
      auto page = std::make_shared<Storage>(Memory::host(), size_bytes);
      std::memcpy(page->bytes(), static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(p) * size_bytes,
                  size_bytes);
      state.pages_[entry.index].push_back(std::move(page));
    }
  }
  return state;
}

State State::to(Memory& memory) const {
  State state = *this;
  state.fixed_ = brought_to(memory, fixed_);
  for (auto& list : state.pages_) {
    for (auto& page : list) page = brought_to(memory, page);
  }
  return state;
}

float* const* LayerStates::fixed(size_t spec) const {
  const size_t entry = first_entry_ + spec;
  CAROUSEL_DASSERT(!batch_->layout_->entries()[entry].spec.per_token);
  const size_t at = entry * batch_->states_.size();
  if (batch_->there_ != nullptr) return reinterpret_cast<float* const*>(batch_->there_->bytes()) + at;
  return batch_->fixed_table_.data() + at;
}

float* const* const* LayerStates::pages(size_t spec) const {
  const StateLayout::Entry& entry = batch_->layout_->entries()[first_entry_ + spec];
  CAROUSEL_DASSERT(entry.spec.per_token);
  const size_t at = entry.index * batch_->states_.size();
  if (batch_->there_ == nullptr) return batch_->page_table_.data() + at;
  const auto* const tables = reinterpret_cast<float* const* const*>(batch_->there_->bytes());
  return tables + batch_->fixed_table_.size() + at;
}

void StateBatch::bind(const StateLayout& layout, std::span<State* const> states, std::span<const int64_t> lengths,
                      Memory& memory) {
  CAROUSEL_ASSERT(states.size() == lengths.size());
  layout_ = &layout;
  states_.assign(states.begin(), states.end());
  for (size_t s = 0; s < states.size(); ++s) make_writable(*states[s], lengths[s], memory);
  fill_tables();
  if (memory.is_apart()) {
    copy_tables(memory);
  } else {
    there_ = nullptr;
  }
}

void StateBatch::copy_tables(Memory& memory) {
  const size_t lists = page_table_.size(), first_page = fixed_table_.size() + lists;
  size_t count = first_page;
  for (size_t i = 0; i < lists; ++i) count += pages_[i].size();
  if (there_ == nullptr || &there_->memory() != &memory || there_->size_bytes() < count * sizeof(void*)) {
    there_ = std::make_shared<Storage>(memory, 2 * count * sizeof(void*));
  }
  copied_.assign(fixed_table_.begin(), fixed_table_.end());
  size_t page = first_page;
  for (size_t i = 0; i < lists; ++i) {
    copied_.push_back(there_->bytes() + page * sizeof(void*));
    page += pages_[i].size();
  }
  for (size_t i = 0; i < lists; ++i) copied_.insert(copied_.end(), pages_[i].begin(), pages_[i].end());
  Memory::copy(Memory::host(), reinterpret_cast<const std::byte*>(copied_.data()), memory, there_->bytes(),
               count * sizeof(void*));
}

namespace {

#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"  // g++'s ThreadSanitizer does not see fences, and says so
#endif
void acquire() { std::atomic_thread_fence(std::memory_order_acquire); }

}  // namespace

void StateBatch::make_writable(State& state, int64_t rows, Memory& memory) const {
  const auto is_elsewhere = [&](const std::shared_ptr<Storage>& storage) { return &storage->memory() != &memory; };
  if (layout_->fixed_bytes() > 0) {
    if (state.fixed_ == nullptr) {
      state.fixed_ = std::make_shared<Storage>(memory, layout_->fixed_bytes());
    } else if (is_elsewhere(state.fixed_) || (rows > 0 && state.fixed_.use_count() > 1)) {
      state.fixed_ = state.fixed_->copy(memory);
    }
  }
  state.pages_.resize(layout_->paged_count());
  const auto first_written = static_cast<size_t>(state.pos_ / kPageRows);
  const auto needed = static_cast<size_t>(pages_for(state.pos_ + rows));
  for (const StateLayout::Entry& entry : layout_->entries()) {
    if (!entry.spec.per_token) continue;
    auto& list = state.pages_[entry.index];
    while (list.size() < needed) list.push_back(std::make_shared<Storage>(memory, spec_bytes(entry.spec)));
    for (size_t p = 0; p < list.size(); ++p) {
      const bool written = rows > 0 && first_written <= p && p < needed;
      if (is_elsewhere(list[p]) || (written && list[p].use_count() > 1)) list[p] = list[p]->copy(memory);
    }
  }
  // Another thread may have been the last to share the storage. It let go of it by a release; use_count() is a relaxed
  // load, so this fence is what orders that thread's reads before the writes to come.
  acquire();
}

void StateBatch::fill_tables() {
  const size_t batch = states_.size(), paged = layout_->paged_count();
  if (pages_.size() < batch * paged) pages_.resize(batch * paged);
  page_table_.resize(batch * paged);
  fixed_table_.assign(batch * layout_->entries().size(), nullptr);
  for (size_t e = 0; e < layout_->entries().size(); ++e) {
    const StateLayout::Entry& entry = layout_->entries()[e];
    for (size_t s = 0; s < batch; ++s) {
      const State& state = *states_[s];
      if (!entry.spec.per_token) {
        std::byte* const bytes = state.fixed_ ? state.fixed_->bytes() : nullptr;
        if (bytes != nullptr) fixed_table_[e * batch + s] = reinterpret_cast<float*>(bytes + entry.offset_bytes);
        continue;
      }
      const auto& list = state.pages_[entry.index];
      std::vector<float*>& pages = pages_[entry.index * batch + s];
      pages.resize(list.size());
      for (size_t p = 0; p < list.size(); ++p) pages[p] = reinterpret_cast<float*>(list[p]->bytes());
      page_table_[entry.index * batch + s] = pages.data();
    }
  }
}

void StateBatch::unbind() {
  layout_ = nullptr;
  states_.clear();
}

void StateBatch::advance(std::span<const int64_t> lengths) {
  for (size_t s = 0; s < states_.size(); ++s) states_[s]->pos_ += lengths[s];
}

}  // namespace carousel
