// SPDX-License-Identifier: Apache-2.0
// States by id.
//
// 1. bytes_ is the sum of the bytes in kept_. It exceeds most_bytes_ only by states that were fetched for requests.
// 2. Only states that are stored leave memory to make room. One that is being stored stays until the store has said so.
// 3. A state that is stored is there while the store has its manifest, and another server may remove it. Every call
//    asks the store anew, and answers_ tells it what was said. Nothing here waits for the store.
#include "carousel/serve/states.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>

#include "carousel/core/assert.h"

namespace carousel::serve {
namespace {

// A rewind looks at a state and at one of its ancestors: fetching one must not send the other away.
constexpr uint64_t kSpared = 2;

HttpError not_kept(const std::string& id) {
  return {404, fmt::format("state: \"{}\" is not kept here", id), "state", "state_not_found", {}};
}

}  // namespace

std::string draw_id(const std::string& prefix) {
  std::random_device device;
  return fmt::format("{}-{:08x}{:08x}{:08x}{:08x}", prefix, device(), device(), device(), device());
}

std::shared_ptr<const KeptState> States::add(model::SavedState saved, const std::string& parent,
                                             const std::string& owner) {
  const auto kept = add(std::move(saved), parent, owner, draw_id("state"));
  store(kept->id);
  return kept;
}

std::shared_ptr<const KeptState> States::add(model::SavedState saved, const std::string& parent,
                                             const std::string& owner, const std::string& id) {
  auto kept = std::make_shared<KeptState>();
  kept->bytes = saved.state.bytes() + saved.tokens.size() * sizeof(int32_t) + saved.logits.size_bytes();
  make_room(kept->bytes, 0);
  if (bytes_ + kept->bytes > most_bytes_) refuse(bytes_ + kept->bytes);
  if (store_) store_->check_room(kept->bytes);
  kept->id = id;
  kept->parent = parent;
  kept->owner = owner;
  kept->tokens = saved.state.pos();
  kept->created = std::time(nullptr);
  kept->expires = store_ ? store_->expires() : 0;
  kept->saved = std::move(saved);
  keep(kept);
  return kept;
}

/// Throws HttpError: 429 where states that are being stored will soon leave memory, else 507.
void States::refuse(size_t bytes) const {
  const bool moves =
      std::any_of(kept_.begin(), kept_.end(), [](const auto& resident) { return resident.second.storing; });
  HttpError error{507,
                  fmt::format("keep_state: the states in memory would take {} bytes, expected at most {}; {}", bytes,
                              most_bytes_, moves ? "some are being stored" : "delete some"),
                  "keep_state",
                  "store_full",
                  {{"x-should-retry", "false"}}};
  if (moves) {
    error.status = 429;
    error.code = "memory_full";
    error.headers = {{"Retry-After", "1"}};
  }
  throw error;
}

void States::keep(std::shared_ptr<KeptState> kept) {
  bytes_ += kept->bytes;
  const std::string id = kept->id;
  kept_[id] = {std::move(kept), false, {}, ++clock_};
}

/// Forgets stored states, those first that were not used for longest, until `bytes` more fit. The last `spared` uses of
/// states are left.
void States::make_room(size_t bytes, uint64_t spared) {
  while (bytes_ + bytes > most_bytes_) {
    auto oldest = kept_.end();
    for (auto at = kept_.begin(); at != kept_.end(); ++at) {
      if (!at->second.kept->stored || at->second.used + spared > clock_) continue;
      if (oldest == kept_.end() || at->second.used < oldest->second.used) oldest = at;
    }
    if (oldest == kept_.end()) return;
    forget(oldest);
  }
}

void States::forget(Residents::iterator at) {
  bytes_ -= at->second.kept->bytes;
  kept_.erase(at);
}

void States::attach(const std::string& id, Json answer) {
  const auto at = kept_.find(id);
  if (at == kept_.end()) return;  // removed meanwhile
  at->second.kept->answer = std::move(answer);
  store(id);
}

void States::store(const std::string& id) {
  if (!store_) return;
  Resident& resident = kept_.at(id);
  resident.storing = true;
  store_->put(resident.kept, [this, id](const HttpError& error) { stored(id, error); });
}

void States::stored(const std::string& id, const HttpError& error) {
  if (error.status >= 500) failures_++;
  const auto at = kept_.find(id);
  if (at == kept_.end()) return;
  at->second.storing = false;
  at->second.kept->stored = error.status == 0;
  const auto waiters = std::move(at->second.waiters);
  at->second.waiters.clear();
  // Who waited is told an error and no id, so nobody could ask for the state.
  if (error.status != 0 && !waiters.empty()) forget(at);
  for (const auto& then : waiters) then(error);
}

void States::when_stored(const std::string& id, Store::Told then) {
  const auto at = kept_.find(id);
  if (at == kept_.end()) return then(removed_error(id));
  if (at->second.storing) return at->second.waiters.push_back(std::move(then));
  then(at->second.kept->stored ? kNoError
                               : HttpError{500, "keep_state: the state was not stored", "keep_state", "", {}});
}

/// A state of the owner in memory that is there for sure: the store does not have it yet, or has said that it does.
States::Residents::iterator States::resident(const std::string& id, const std::string& owner) {
  const auto at = kept_.find(id);
  if (at == kept_.end() || at->second.kept->owner != owner) return kept_.end();
  const KeptState& kept = *at->second.kept;
  const bool gone = kept.expired() || (kept.stored && !stored_card(id));
  if (gone && !at->second.storing) forget(at);
  if (gone) return kept_.end();
  at->second.used = ++clock_;
  return at;
}

/// What the store has said of a state, if there is a store. Throws Elsewhere until it has.
const std::optional<StateCard>& States::stored_card(const std::string& id, int64_t tokens) const {
  static const std::optional<StateCard> none;
  if (!store_) return none;
  CAROUSEL_ASSERT(answers_ != nullptr);
  const auto said = answers_->cards.find(id);
  if (said == answers_->cards.end()) throw Elsewhere{Elsewhere::What::kCard, id, tokens};
  return said->second;
}

std::shared_ptr<const KeptState> States::find(const std::string& id, const std::string& owner) {
  const auto at = resident(id, owner);
  if (at != kept_.end()) return at->second.kept;
  const std::optional<StateCard>& card = stored_card(id);
  if (card && card->owner == owner) throw Elsewhere{Elsewhere::What::kState, id};
  throw not_kept(id);
}

StateCard States::card(const std::string& id, const std::string& owner) {
  const auto at = resident(id, owner);
  if (at != kept_.end()) return *at->second.kept;
  const std::optional<StateCard>& card = stored_card(id);
  if (!card || card->owner != owner) throw not_kept(id);
  return *card;
}

void States::ask(const Elsewhere& wanted, const std::shared_ptr<StoreAnswers>& answers, Store::Told then) {
  if (wanted.what == Elsewhere::What::kState) return fetch(wanted.id, std::move(then));
  const bool all = wanted.what == Elsewhere::What::kList;
  auto told = [answers, all, then = std::move(then)](const std::vector<Store::Card>& cards, const HttpError& error) {
    if (error.status != 0) return then(error);
    if (all) answers->list.emplace();
    for (const auto& [id, card] : cards) {
      if (all && card) answers->list->push_back(*card);
      if (!all) answers->cards[id] = card;
    }
    then(kNoError);
  };
  if (all) {
    store_->list(std::move(told));
  } else {
    store_->look(wanted.id, wanted.tokens, std::move(told));
  }
}

/// Brings a state to memory. Calls that want the same one wait for one reading.
void States::fetch(const std::string& id, Store::Told then) {
  std::vector<Store::Told>& waiting = fetching_[id];
  waiting.push_back(std::move(then));
  if (waiting.size() > 1) return;
  store_->load(id, [this, id](const std::shared_ptr<KeptState>& kept, const HttpError& error) {
    if (kept != nullptr && !kept_.contains(id)) {
      make_room(kept->bytes, kSpared);
      keep(kept);
    }
    const std::vector<Store::Told> told = std::move(fetching_[id]);
    fetching_.erase(id);
    for (const Store::Told& one : told) one(error);
  });
}

std::shared_ptr<const KeptState> States::ancestor(const std::string& id, const std::string& owner, int64_t tokens) {
  const std::shared_ptr<const KeptState> whole = find(id, owner);
  for (std::string next = id; !next.empty();) {
    if (store_) stored_card(next, tokens);  // where it is not known, the store is asked for its ancestors too
    const auto at = resident(next, owner);
    if (at == kept_.end()) {
      const std::optional<StateCard>& card = stored_card(next, tokens);
      if (!card || card->owner != owner) return nullptr;
      if (card->tokens <= tokens) throw Elsewhere{Elsewhere::What::kState, next};
      next = card->parent;
      continue;
    }
    const std::shared_ptr<const KeptState> kept = at->second.kept;
    const std::vector<int32_t>& seen = kept->saved.tokens;
    const bool begins =
        seen.size() <= whole->saved.tokens.size() && std::equal(seen.begin(), seen.end(), whole->saved.tokens.begin());
    if (begins && kept->tokens <= tokens) return kept;
    next = kept->parent;
  }
  return nullptr;
}

void States::remove(const std::string& id, const std::string& owner, const Store::Told& then) {
  card(id, owner);  // throws 404
  if (const auto at = kept_.find(id); at != kept_.end()) {
    const auto waiters = std::move(at->second.waiters);
    forget(at);
    for (const auto& waiter : waiters) waiter(removed_error(id));
  }
  if (!store_) return then(kNoError);
  store_->remove(id, then);
}

std::vector<StateCard> States::list(const std::string& owner) {
  if (store_ && (!answers_ || !answers_->list)) throw Elsewhere{Elsewhere::What::kList, ""};
  std::vector<StateCard> out;
  for (const auto& [id, resident] : kept_) {
    const KeptState& kept = *resident.kept;
    if (kept.owner == owner && !kept.stored && !kept.expired()) out.push_back(kept);
  }
  const auto is_listed = [&](const StateCard& card) {
    const auto at = kept_.find(card.id);
    return at != kept_.end() && !at->second.kept->stored;
  };
  if (store_) {
    for (const StateCard& card : *answers_->list) {
      if (card.owner == owner && !is_listed(card)) out.push_back(card);
    }
  }
  std::sort(out.begin(), out.end(), [](const StateCard& a, const StateCard& b) {
    return a.created != b.created ? a.created < b.created : a.id < b.id;
  });
  return out;
}

}  // namespace carousel::serve
