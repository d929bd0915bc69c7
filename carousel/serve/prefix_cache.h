// SPDX-License-Identifier: Apache-2.0
// States of beginnings of prompts, found again by the tokens they have seen. Kept are states whose whole past was read
// as prompts and cut at multiples of a piece of the mLSTM's chunk grid, for which "read from here" and "read from the
// start" are the same bits (docs/state.md). So the cache saves time and changes no answer.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "carousel/core/state.h"

namespace carousel::serve {

class PrefixCache {
 public:
  /// Tokens of a piece: states lie at multiples of it.
  static constexpr int64_t kPiece = 64;

  /// bytes: of all states and tokens it may hold. 0: it holds none. The layout must outlive the cache.
  PrefixCache(const StateLayout& layout, size_t bytes) : layout_(layout), most_bytes_(bytes) {}

  /// The state that has seen the longest beginning of `tokens`, of at most `most` of them; empty: none. Domains know
  /// nothing of each other.
  State find(const std::string& domain, std::span<const int32_t> tokens, int64_t most);
  /// Where states of a prompt should be kept that is read from token `from` on, ascending: where it leaves what is
  /// known, at its end, and in steps between. Remembers the prompt's tokens.
  std::vector<int64_t> marks(const std::string& domain, std::span<const int32_t> tokens, int64_t from);
  /// Keeps the state that has seen `tokens`, whose count is a multiple of kPiece. What is least worth its bytes goes.
  void keep(const std::string& domain, std::span<const int32_t> tokens, const State& state);

  size_t bytes() const { return bytes_; }
  int64_t states() const { return states_; }
  int64_t evictions() const { return evictions_; }

 private:
  /// A piece of a prompt after the pieces of its parents.
  struct Node {
    Node* parent = nullptr;
    std::map<std::vector<int32_t>, std::unique_ptr<Node>> next;  // by the tokens of the piece
    const std::vector<int32_t>* piece = nullptr;                 // its key in parent->next; null: a root
    int64_t tokens = 0;                                          // that a state here has seen
    State state;                                                 // empty: none is kept
    uint64_t used = 0;                                           // when
    size_t bytes = 0;                                            // of the state, those shared with parents left out
  };
  static constexpr size_t kNodeBytes = sizeof(Node) + kPiece * sizeof(int32_t) + 96;  // and its place in a map

  Node* walk(const std::string& domain, std::span<const int32_t> tokens, bool add);
  size_t own_bytes(const Node& node) const;
  void make_room(const Node* kept);
  void remove(Node* node);

  const StateLayout& layout_;
  const size_t most_bytes_;
  size_t bytes_ = 0;
  int64_t states_ = 0, evictions_ = 0;
  uint64_t clock_ = 0;
  std::map<std::string, Node> roots_;
};

}  // namespace carousel::serve
