// SPDX-License-Identifier: Apache-2.0
// States by id, the oldest first.
#include "carousel/serve/states.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "carousel/serve/call.h"

namespace carousel::serve {

std::string draw_id(const std::string& prefix) {
  std::random_device device;
  return fmt::format("{}-{:08x}{:08x}{:08x}{:08x}", prefix, device(), device(), device(), device());
}

std::shared_ptr<const KeptState> States::add(model::SavedState saved, const std::string& parent,
                                             const std::string& owner, const std::string& id) {
  auto kept = std::make_shared<KeptState>();
  kept->bytes = saved.state.bytes() + saved.tokens.size() * sizeof(int32_t) + saved.logits.size_bytes();
  if (bytes_ + kept->bytes > most_bytes_) {
    throw HttpError{507,
                    fmt::format("keep_state: the states kept would take {} bytes, expected at most {}; delete some",
                                bytes_ + kept->bytes, most_bytes_),
                    "keep_state",
                    "store_full",
                    {{"x-should-retry", "false"}}};
  }
  kept->id = id.empty() ? draw_id("state") : id;
  kept->parent = parent;
  kept->owner = owner;
  kept->saved = std::move(saved);
  kept->created = std::time(nullptr);
  bytes_ += kept->bytes;
  kept_[kept->id] = kept;
  order_.push_back(kept->id);
  return kept;
}

std::shared_ptr<const KeptState> States::find(const std::string& id, const std::string& owner) const {
  const auto found = kept_.find(id);
  if (found != kept_.end() && found->second->owner == owner) return found->second;
  throw HttpError{404, fmt::format("state: \"{}\" is not kept here", id), "state", "state_not_found", {}};
}

std::shared_ptr<const KeptState> States::ancestor(const std::string& id, const std::string& owner,
                                                  int64_t tokens) const {
  const std::shared_ptr<const KeptState> whole = find(id, owner);
  for (std::shared_ptr<const KeptState> at = whole; at != nullptr;) {
    const std::vector<int32_t>& seen = at->saved.tokens;
    const bool begins =
        seen.size() <= whole->saved.tokens.size() && std::equal(seen.begin(), seen.end(), whole->saved.tokens.begin());
    if (begins && at->saved.state.pos() <= tokens) return at;
    const auto parent = kept_.find(at->parent);
    at = parent == kept_.end() || parent->second->owner != owner ? nullptr : parent->second;
  }
  return nullptr;
}

void States::attach(const std::string& id, Json answer) { kept_.at(id)->answer = std::move(answer); }

void States::remove(const std::string& id, const std::string& owner) {
  bytes_ -= find(id, owner)->bytes;
  kept_.erase(id);
  order_.remove(id);
}

std::vector<std::shared_ptr<const KeptState>> States::list(const std::string& owner) const {
  std::vector<std::shared_ptr<const KeptState>> out;
  for (const std::string& id : order_) {
    const std::shared_ptr<KeptState>& kept = kept_.at(id);
    if (kept->owner == owner) out.push_back(kept);
  }
  return out;
}

}  // namespace carousel::serve
