// SPDX-License-Identifier: Apache-2.0
// States of beginnings of texts, found again by the tokens they have seen. A state is exact where its whole past was
// read as prompts and cut at multiples of a piece of the mLSTM's chunk grid: "read from it" and "read from the start"
// are the same bits then (docs/state.md), so it saves time and changes no answer. Others, as those that were decoded,
// are given to whoever asks for any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "carousel/core/state.h"

namespace carousel::serve {

/// Whether states of a model have the same bits wherever they were cut (docs/state.md).
bool cut_anywhere(const StateLayout& layout);

class PrefixCache {
 public:
  /// Tokens of a piece: states lie at multiples of it.
  static constexpr int64_t kPiece = 64;

  /// bytes: of all states and tokens it may hold. 0: it holds none. The layout must outlive the cache.
  PrefixCache(const StateLayout& layout, size_t bytes) : layout_(layout), most_bytes_(bytes) {}

  struct Found {
    State state;        // empty: none
    bool exact = true;  // what is read on from it is exact too
  };
  /// The state that has seen the longest beginning of `tokens`, of at most `most` of them. `any`: one that is not exact
  /// will do. Domains know nothing of each other.
  Found find(const std::string& domain, std::span<const int32_t> tokens, int64_t most, bool any);
  /// So many first tokens of `tokens` are those of prompts that are remembered, with a state or without; a multiple of
  /// kPiece.
  int64_t known(const std::string& domain, std::span<const int32_t> tokens) {
    const Node* const node = walk(domain, tokens, false);
    return node == nullptr ? 0 : node->tokens;
  }
  /// Where states of a prompt should be kept that is read from token `from` on, ascending: where it leaves what is
  /// known, at its end, and in steps between. Remembers the prompt's tokens.
  std::vector<int64_t> marks(const std::string& domain, std::span<const int32_t> tokens, int64_t from);
  /// Keeps the state that has seen `tokens`. What is least worth its bytes goes.
  void keep(const std::string& domain, std::span<const int32_t> tokens, const State& state, bool exact);

  size_t bytes() const { return bytes_; }
  int64_t states() const { return states_; }
  int64_t evictions() const { return evictions_; }

 private:
  /// A piece of a text after the pieces of its parents. One of fewer than kPiece tokens ends a text that has a state.
  struct Node {
    Node* parent = nullptr;
    std::map<std::vector<int32_t>, std::unique_ptr<Node>> next;  // by the tokens of the piece
    const std::vector<int32_t>* piece = nullptr;                 // its key in parent->next; null: a root
    int64_t tokens = 0;                                          // that a state here has seen
    State state;                                                 // empty: none is kept
    bool exact = true;                                           // the state is
    uint64_t used = 0;                                           // when
    size_t bytes = 0;                                            // of the state, those shared with parents left out
  };
  static constexpr size_t kNodeBytes = sizeof(Node) + kPiece * sizeof(int32_t) + 96;  // and its place in a map
  static size_t root_bytes(const std::string& domain) { return kNodeBytes + domain.size(); }

  Node* walk(const std::string& domain, std::span<const int32_t> tokens, bool add);
  Node* child(Node& parent, std::span<const int32_t> piece);
  static Node* longest_end(Node& node, std::span<const int32_t> rest, bool any);
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
