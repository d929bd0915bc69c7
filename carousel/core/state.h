// SPDX-License-Identifier: Apache-2.0
// One sequence's whole memory as a value. A State is a position and the tensors each block asked for. Copying it forks
// the sequence: storage is shared until one side writes. A default State is a valid start. Files: docs/state.md.
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

/// One state tensor of a block, for one sequence. A fixed tensor has `shape`. A per_token one grows by pages of
/// kPageRows rows, and `shape` is that of one page; unwritten rows of the last page are zero. With cut_anywhere it and
/// the results have the same bits wherever a forward on the host is cut, not only between chunks.
struct StateSpec {
  const char* name;
  DType dtype = DType::kF32;
  Shape shape;
  bool per_token = false;
  bool cut_anywhere = false;
};

/// Every state tensor of a model, in order.
class StateLayout {
 public:
  struct Entry {
    std::string name;         // "3.C": layer index and the block's name for it
    StateSpec spec;           // its shape, and whether it grows
    size_t offset_bytes = 0;  // fixed tensors: place in the State's one block
    size_t index = 0;         // per-token tensors: which list of pages
  };
  /// Appends the specs of one block; returns the index of its first entry.
  size_t add(const std::string& prefix, const std::vector<StateSpec>& specs);

  const std::vector<Entry>& entries() const { return entries_; }
  size_t fixed_bytes() const { return fixed_bytes_; }  // of all fixed tensors of one sequence
  size_t page_bytes() const { return page_bytes_; }    // of one page of every per-token tensor together
  size_t paged_count() const { return paged_count_; }  // number of per-token tensors
  size_t bytes_at(int64_t pos) const;                  // bytes of a state after `pos` tokens

 private:
  std::vector<Entry> entries_;
  size_t fixed_bytes_ = 0;
  size_t page_bytes_ = 0;
  size_t paged_count_ = 0;
};

class State {
 public:
  int64_t pos() const { return pos_; }  // tokens seen
  size_t bytes() const;                 // of all storage it owns, alone or with others: for admission and budgets
  size_t bytes_in(const Memory& memory) const;  // of the storage that lies there
  bool empty() const { return pos_ == 0 && fixed_ == nullptr && pages_.empty(); }

  /// The tensors that a file holds, on the host: one per layout entry, a per-token entry as [pages, ...page shape]. A
  /// fixed tensor that lies on the host is a view, not a copy. A state that was never run gives zeros.
  NamedTensors tensors(const StateLayout& layout) const;
  /// The inverse of tensors(). Throws Error(kState) naming the first missing, extra, misshaped or non-finite tensor;
  /// nothing is built before all of it is checked.
  static State from(const NamedTensors& tensors, int64_t pos, const StateLayout& layout);
  /// The same state in `memory`: tensors have one layout in every memory. It shares storage that lies there already.
  State to(Memory& memory) const;

 private:
  friend class StateBatch;
  friend class LayerStates;
  int64_t pos_ = 0;                                           // tokens seen
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
  size_t first_entry() const { return first_entry_; }
  /// [B] where fixed tensor `spec` (index into Block::state()) of each sequence lies; read, then replaced in place.
  /// This table, and that of pages, lies in the memory that the states are bound in.
  float* const* fixed(size_t spec) const;
  /// [B] the pages of per-token tensor `spec` of each sequence: enough for the rows this forward appends.
  float* const* const* pages(size_t spec) const;

 private:
  const StateBatch* batch_ = nullptr;
  size_t first_entry_ = 0;
};

/// The states of a batch made ready to be written: shared storage is copied, empty states get storage, and pages are
/// added for the rows of the forward. The addresses of their tensors are written to tables once, for the kernels of all
/// blocks. A StateBatch kept across steps allocates nothing until a page is full.
class StateBatch {
 public:
  /// Binds `states` ([B], each at its own position) for a forward of lengths[s] rows in `memory`; states that lie
  /// elsewhere are copied there. The states must live until unbind() and may not repeat.
  void bind(const StateLayout& layout, std::span<State* const> states, std::span<const int64_t> lengths,
            Memory& memory = Memory::host());
  void unbind();
  bool bound() const { return layout_ != nullptr; }
  /// Moves every position on by its length. Call it once, after the forward.
  void advance(std::span<const int64_t> lengths);

  /// Where the tables lie in a memory that is apart: kernels of one layout and number of states find them there as long
  /// as this does not change.
  const void* tables() const { return there_ == nullptr ? nullptr : there_->bytes(); }
  LayerStates layer(size_t first_entry) const { return LayerStates(this, first_entry); }

 private:
  friend class LayerStates;
  /// Gives a state storage of its own for the `rows` to come.
  void make_writable(State& state, int64_t rows, Memory& memory) const;
  void fill_tables();
  /// Copies the tables to `memory`, where those of pages point to each other's copies.
  void copy_tables(Memory& memory);

  const StateLayout* layout_ = nullptr;     // null: not bound
  std::vector<State*> states_;              // [B]
  std::vector<std::vector<float*>> pages_;  // [per-token tensor * B + sequence][page]
  std::vector<float* const*> page_table_;   // [per-token tensor * B + sequence], into pages_
  std::vector<float*> fixed_table_;         // [entry * B + sequence], null for a per-token entry
  std::vector<const void*> copied_;         // the tables end to end: fixed_table_, page_table_, pages_
  std::shared_ptr<Storage> there_;          // copied_ in a memory that is apart; null: the host's tables are used
};

}  // namespace carousel
