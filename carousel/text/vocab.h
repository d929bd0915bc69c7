// SPDX-License-Identifier: Apache-2.0
// The two-way map between token strings and ids. Strings lie end to end in one arena, found by an open-addressed table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::text {

constexpr int32_t kNoToken = -1;
constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;

/// Drawn once per process: a file cannot choose texts and ids that fall together in a table.
uint64_t hash_salt();

class Vocab {
 public:
  enum class Added : uint8_t { kNew, kTextTaken, kIdTaken };

  /// Reserves for about `count` tokens.
  explicit Vocab(size_t count = 0);
  /// Adds a token with `id` in [0, kMaxTokenId]. Adding the same pair again gives kNew. Another result names the
  /// conflict, and nothing is changed.
  Added add(std::string_view text, int32_t id);

  int32_t find(std::string_view text) const;  // kNoToken when absent
  bool has(int64_t id) const { return id >= 0 && id < id_end() && spans_[static_cast<size_t>(id)].begin != kHole; }
  std::string_view text(int64_t id) const;                                // empty for an id without a token
  int64_t id_end() const { return static_cast<int64_t>(spans_.size()); }  // largest id + 1
  size_t size() const { return count_; }

 private:
  static constexpr uint32_t kHole = UINT32_MAX;
  struct Span {
    uint32_t begin = kHole;
    uint32_t size = 0;
  };
  struct Slot {  // it holds the span, so that a lookup misses the cache twice, not three times
    uint32_t hash = 0;
    int32_t id = kNoToken;
    Span span;
  };
  std::string_view text(const Span& span) const { return {arena_.data() + span.begin, span.size}; }
  void grow();
  size_t slot_of(std::string_view text, uint32_t hash) const;

  std::string arena_;
  std::vector<Span> spans_;  // [id_end()] the string of each id
  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t count_ = 0;
};

}  // namespace carousel::text
