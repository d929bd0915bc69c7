// SPDX-License-Identifier: Apache-2.0
// A tree of pieces of 64 tokens.
//
// 1. bytes_ is kNodeBytes for every node but roots, and Node::bytes of those with a state.
// 2. A node without a state has children, or was passed by a prompt since the last eviction: such leaves go first.
// 3. A root without children lives until the next eviction.
// 4. Only the node that was used is refreshed, not its parents: a parent that nobody branches from may go.
#include "carousel/serve/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "carousel/core/assert.h"

namespace carousel::serve {
namespace {

constexpr int64_t kStep = 512;           // tokens between states of a long prompt, at least
constexpr size_t kSharePart = 8;         // one prompt's steps take at most such a part of the budget
constexpr size_t kRoomPart = 8;          // evictions free such a part of it
constexpr size_t kMostTokens = 1 << 19;  // of a prompt; what comes after is not remembered

}  // namespace

/// The node of the last whole piece of `tokens`; with `add` it is made, else the last one that is there.
PrefixCache::Node* PrefixCache::walk(const std::string& domain, std::span<const int32_t> tokens, bool add) {
  Node* at = &roots_[domain];
  for (size_t i = 0; i + kPiece <= std::min(tokens.size(), kMostTokens); i += kPiece) {
    std::vector<int32_t> piece(tokens.begin() + static_cast<std::ptrdiff_t>(i),
                               tokens.begin() + static_cast<std::ptrdiff_t>(i + kPiece));
    auto found = at->next.find(piece);
    if (found == at->next.end()) {
      if (!add) break;
      found = at->next.emplace(std::move(piece), std::make_unique<Node>()).first;
      Node& made = *found->second;
      made.parent = at;
      made.piece = &found->first;
      made.tokens = at->tokens + kPiece;
      bytes_ += kNodeBytes;
    }
    at = found->second.get();
  }
  return at;
}

State PrefixCache::find(const std::string& domain, std::span<const int32_t> tokens, int64_t most) {
  if (most_bytes_ == 0 || most < kPiece) return {};
  Node* at = walk(
      domain, tokens.first(static_cast<size_t>(std::min<int64_t>(most, static_cast<int64_t>(tokens.size())))), false);
  while (at != nullptr && at->state.empty()) at = at->parent;
  if (at == nullptr) return {};
  at->used = ++clock_;
  return at->state;
}

std::vector<int64_t> PrefixCache::marks(const std::string& domain, std::span<const int32_t> tokens, int64_t from) {
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<int64_t> out;
  if (most_bytes_ == 0) return out;
  const int64_t end = std::min<int64_t>(count, kMostTokens) / kPiece * kPiece,
                known = walk(domain, tokens, false)->tokens;
  const size_t share = most_bytes_ / kSharePart + 1, whole = layout_.fixed_bytes();
  const auto parts = std::max<int64_t>(static_cast<int64_t>(share / (whole + 1)), 1);
  const int64_t step = std::max(kStep, (count / parts + kPiece - 1) / kPiece * kPiece);
  for (int64_t at = step; at < end; at += step) out.push_back(at);
  // The last token's logits are needed where the same prompt comes again: it starts before its end.
  for (const int64_t at : {known, end, std::min(end, (count - 1) / kPiece * kPiece)}) out.push_back(at);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  std::erase_if(out, [&](int64_t at) { return at <= from; });
  walk(domain, tokens, true)->used = ++clock_;
  make_room(nullptr);
  return out;
}

/// Pages that a state shares with that of its nearest parent are counted there.
size_t PrefixCache::own_bytes(const Node& node) const {
  const Node* parent = node.parent;
  while (parent != nullptr && parent->state.empty()) parent = parent->parent;
  const size_t shared = parent == nullptr ? 0 : layout_.bytes_at(parent->tokens) - layout_.fixed_bytes();
  return layout_.bytes_at(node.tokens) - shared;
}

void PrefixCache::keep(const std::string& domain, std::span<const int32_t> tokens, const State& state) {
  if (tokens.size() > kMostTokens) return;
  CAROUSEL_ASSERT(static_cast<int64_t>(tokens.size()) == state.pos() && state.pos() % kPiece == 0 && state.pos() > 0);
  if (most_bytes_ == 0) return;
  Node* const at = walk(domain, tokens, true);
  at->used = ++clock_;
  if (!at->state.empty()) return;
  at->state = state;
  at->bytes = own_bytes(*at);
  bytes_ += at->bytes;
  states_++;
  make_room(at);
}

/// Takes the state of a node, and the nodes that lead nowhere without it.
void PrefixCache::remove(Node* node) {
  if (!node->state.empty()) {
    bytes_ -= node->bytes;
    node->state = State();
    node->bytes = 0;
    states_--;
    evictions_++;
  }
  while (node->parent != nullptr && node->state.empty() && node->next.empty()) {
    Node* const parent = node->parent;
    const std::vector<int32_t> piece = *node->piece;
    parent->next.erase(piece);
    bytes_ -= kNodeBytes;
    node = parent;
  }
}

/// Evicts by age against the tokens that would have to be read again, until all fits with some room. `kept` stays.
void PrefixCache::make_room(const Node* kept) {
  if (bytes_ <= most_bytes_) return;
  struct Visit {
    Node* node;
    int64_t before;  // tokens of the nearest state above
  };
  std::vector<Visit> visits;
  std::vector<std::pair<double, Node*>> candidates;  // by what they are worth, the least first
  for (auto& [domain, root] : roots_) visits.push_back({&root, 0});
  while (!visits.empty()) {
    const auto [node, before] = visits.back();
    visits.pop_back();
    const bool has_state = !node->state.empty();
    if (node != kept && node->parent != nullptr && (has_state || node->next.empty())) {
      const auto age = static_cast<double>(clock_ - node->used + 1);
      candidates.emplace_back(has_state ? static_cast<double>(node->tokens - before) / age : 0.0, node);
    }
    for (auto& [piece, next] : node->next) visits.push_back({next.get(), has_state ? node->tokens : before});
  }
  std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  const size_t goal = most_bytes_ - most_bytes_ / kRoomPart;
  for (const auto& [worth, node] : candidates) {
    if (bytes_ <= goal) break;
    remove(node);
  }
  std::erase_if(roots_, [](const auto& root) { return root.second.next.empty(); });
}

}  // namespace carousel::serve
