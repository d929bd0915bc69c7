// SPDX-License-Identifier: Apache-2.0
// One sequence's whole memory as a value. A State is a position and the tensors each block asked for; copying it forks
// the sequence (storage is shared until one side writes), a default State is a valid start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "carousel/core/tensor.h"

namespace carousel {

/// Rows held by one page of a per-token state tensor (attention keys and values).
constexpr int64_t kPageRows = 64;

/// What one block must remember of one sequence. A fixed tensor has `shape`. A per_token one grows by pages of
/// kPageRows rows, and `shape` is that of one page; unwritten rows of the last page are zero.
struct StateSpec {
  const char* name;
  DType dtype = DType::kF32;
  Shape shape;
  bool per_token = false;
};

/// Every state tensor of a model, in order.
class StateLayout {
 public:
  struct Entry {
    std::string name;  // "3.C": layer index and the block's name for it
    StateSpec spec;
    size_t offset_bytes = 0;  // fixed tensors: place in the State's one block
    size_t index = 0;         // per-token tensors: which list of pages
  };
  /// Appends the specs of one block; returns the index of its first entry.
  size_t add(const std::string& prefix, const std::vector<StateSpec>& specs);

  const std::vector<Entry>& entries() const { return entries_; }
  size_t fixed_bytes() const { return fixed_bytes_; }  // per sequence, whatever its length
  size_t page_bytes() const { return page_bytes_; }    // of one page of every per-token tensor
  size_t paged_count() const { return paged_count_; }  // number of per-token tensors
  size_t bytes_at(int64_t pos) const;                  // of a state after `pos` tokens

 private:
  std::vector<Entry> entries_;
  size_t fixed_bytes_ = 0;
  size_t page_bytes_ = 0;
  size_t paged_count_ = 0;
};

class State {
 public:
  int64_t pos() const { return pos_; }  // tokens seen
  size_t bytes() const;                 // held by this state, shared or not: for admission and cache budgets
  bool empty() const { return pos_ == 0 && fixed_ == nullptr && pages_.empty(); }

  /// What a file holds, on the host: one tensor per layout entry, a per-token entry as [pages, ...page shape]. Views,
  /// not copies, of fixed tensors that lie there; a state that was never run gives zeros.
  NamedTensors tensors(const StateLayout& layout) const;
  /// The inverse. Throws Error(kState) naming the first missing, extra, misshaped or non-finite tensor; nothing is
  /// built before all of it is checked.
  static State from(const NamedTensors& tensors, int64_t pos, const StateLayout& layout);
  /// The same state in another memory: its tensors have one layout everywhere. Shares what lies there already.
  State to(Memory& memory) const;

 private:
  friend class StateBatch;
  friend class LayerStates;
  int64_t pos_ = 0;
  std::shared_ptr<Storage> fixed_;                            // every fixed tensor, at its layout offset
  std::vector<std::vector<std::shared_ptr<Storage>>> pages_;  // [per-token tensor][page]
};

class StateBatch;

/// One block's state tensors for every sequence of a batch. Empty: start from zero and keep nothing.
class LayerStates {
 public:
  LayerStates() = default;
  LayerStates(const StateBatch* batch, size_t first_entry) : batch_(batch), first_entry_(first_entry) {}
  bool empty() const { return batch_ == nullptr; }
  /// [B] where fixed tensor `spec` (index into Block::state()) of each sequence lies; read, then replaced in place.
  float* const* fixed(size_t spec) const;
  /// [B] the pages of per-token tensor `spec` of each sequence: enough for the rows this forward appends.
  float* const* const* pages(size_t spec) const;

 private:
  const StateBatch* batch_ = nullptr;
  size_t first_entry_ = 0;
};

/// The states of a batch made ready to be written: shared storage is copied, zero states are given storage, and pages
/// are added for the rows to come. Where their tensors lie is written to tables once, for the kernels of all blocks.
/// Held across steps it allocates nothing until a page fills.
class StateBatch {
 public:
  /// Binds `states` ([B], each at its own position) for a forward of lengths[s] rows in `memory`; states that lie
  /// elsewhere are brought there. The states must outlive the batch's use and may not repeat.
  void bind(const StateLayout& layout, std::span<State* const> states, std::span<const int64_t> lengths,
            Memory& memory = Memory::host());
  void unbind();
  bool bound() const { return layout_ != nullptr; }
  /// Called once after the forward: every position moves on by its length.
  void advance(std::span<const int64_t> lengths);

  LayerStates layer(size_t first_entry) const { return LayerStates(this, first_entry); }

 private:
  friend class LayerStates;
  /// Gives a state storage of its own for the `rows` to come.
  void make_writable(State& state, int64_t rows, Memory& memory) const;
  void fill_tables();

  const StateLayout* layout_ = nullptr;
  std::vector<State*> states_;
  std::vector<std::vector<float*>> pages_;  // [per-token tensor * B + sequence][page]
  std::vector<float* const*> page_table_;   // [per-token tensor * B + sequence], into pages_
  std::vector<float*> fixed_table_;         // [entry * B + sequence], null for a per-token entry
};

}  // namespace carousel
