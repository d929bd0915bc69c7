// SPDX-License-Identifier: Apache-2.0
// A tree of pieces of 64 tokens.
//
// 1. bytes_ is kNodeBytes for every node, the domains of roots, and Node::bytes of those with a state.
// 2. A node without a state has children, or was passed by a prompt since the last eviction: such leaves go first.
// 3. A root without children lives until the next eviction.
// 4. Only the node that was used is refreshed, not its parents: a parent that nobody branches from may go.
// 5. A node of fewer than kPiece tokens has a state and no children.
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

bool cut_anywhere(const StateLayout& layout) {
  return std::all_of(layout.entries().begin(), layout.entries().end(),
                     [](const StateLayout::Entry& entry) { return entry.spec.cut_anywhere; });
}

/// The node of a piece, made where there is none.
PrefixCache::Node* PrefixCache::child(Node& parent, std::span<const int32_t> piece) {
  const auto [at, is_new] = parent.next.try_emplace(std::vector<int32_t>(piece.begin(), piece.end()));
  if (is_new) {
    at->second = std::make_unique<Node>();
    at->second->parent = &parent;
    at->second->piece = &at->first;
    at->second->tokens = parent.tokens + static_cast<int64_t>(piece.size());
    bytes_ += kNodeBytes;
  }
  return at->second.get();
}

/// The node of the last whole piece of `tokens`; with `add` it is made, else the last one that is there, or null.
PrefixCache::Node* PrefixCache::walk(const std::string& domain, std::span<const int32_t> tokens, bool add) {
  auto root = roots_.find(domain);
  if (root == roots_.end()) {
    if (!add) return nullptr;
    root = roots_.try_emplace(domain).first;
    bytes_ += root_bytes(domain);
  }
  Node* at = &root->second;
  for (size_t i = 0; i + kPiece <= std::min(tokens.size(), kMostTokens); i += kPiece) {
    const std::span<const int32_t> piece = tokens.subspan(i, kPiece);
    const auto found = at->next.find(std::vector<int32_t>(piece.begin(), piece.end()));
    if (found == at->next.end() && !add) break;
    at = found == at->next.end() ? child(*at, piece) : found->second.get();
  }
  return at;
}

/// The longest end after a node that `rest` begins with; null: none.
PrefixCache::Node* PrefixCache::longest_end(Node& node, std::span<const int32_t> rest, bool any) {
  std::vector<int32_t> piece(rest.begin(),
                             rest.begin() + std::min<std::ptrdiff_t>(std::ssize(rest), PrefixCache::kPiece - 1));
  for (; !piece.empty(); piece.pop_back()) {
    const auto found = node.next.find(piece);
    if (found != node.next.end() && (any || found->second->exact)) return found->second.get();
  }
  return nullptr;
}

PrefixCache::Found PrefixCache::find(const std::string& domain, std::span<const int32_t> tokens, int64_t most,
                                     bool any) {
  tokens = tokens.first(static_cast<size_t>(std::clamp<int64_t>(most, 0, std::ssize(tokens))));
  if (most_bytes_ == 0 || tokens.empty()) return {};
  for (Node* at = walk(domain, tokens, false); at != nullptr; at = at->parent) {
    Node* found = longest_end(*at, tokens.subspan(static_cast<size_t>(at->tokens)), any);
    if (found == nullptr && !at->state.empty() && (any || at->exact)) found = at;
    if (found == nullptr) continue;
    found->used = ++clock_;
    return {found->state, found->exact};
  }
  return {};
}

std::vector<int64_t> PrefixCache::marks(const std::string& domain, std::span<const int32_t> tokens, int64_t from) {
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<int64_t> out;
  if (most_bytes_ == 0) return out;
  const int64_t end = std::min<int64_t>(count, kMostTokens) / kPiece * kPiece, known = this->known(domain, tokens);
  const size_t share = most_bytes_ / kSharePart + 1, whole = layout_.fixed_bytes();
  const auto parts = std::max<int64_t>(static_cast<int64_t>(share / (whole + 1)), 1);
  const int64_t step = std::max(kStep, (count / parts + kPiece - 1) / kPiece * kPiece);
  for (int64_t at = step; at < end; at += step) out.push_back(at);
  // The last token's logits are needed where the same prompt comes again: it starts before its end.
  for (const int64_t at : {known, end, std::min(end, (count - 1) / kPiece * kPiece)}) out.push_back(at);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  std::erase_if(out, [&](int64_t at) { return at <= from; });
  if (end > 0) walk(domain, tokens, true)->used = ++clock_;
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

void PrefixCache::keep(const std::string& domain, std::span<const int32_t> tokens, const State& state, bool exact) {
  if (most_bytes_ == 0 || tokens.empty() || tokens.size() > kMostTokens) return;
  CAROUSEL_ASSERT(std::ssize(tokens) == state.pos());
  Node* at = walk(domain, tokens, true);
  const std::span<const int32_t> end = tokens.subspan(static_cast<size_t>(at->tokens));
  if (!end.empty()) at = child(*at, end);
  at->used = ++clock_;
  if (!at->state.empty() && (at->exact || !exact)) return;
  if (at->state.empty()) {
    at->bytes = own_bytes(*at);
    bytes_ += at->bytes;
    states_++;
  }
  at->state = state;
  at->exact = exact;
  make_room(at);
}

/// Takes the state of a node, and the nodes that lead nowhere without it.
void PrefixCache::remove(Node* node) {
  if (!node->state.empty()) {
    bytes_ -= node->bytes;
    node->state = State();
    node->exact = true;
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
  std::erase_if(roots_, [this](const auto& root) {
    if (!root.second.next.empty()) return false;
    bytes_ -= root_bytes(root.first);
    return true;
  });
}

}  // namespace carousel::serve
