// SPDX-License-Identifier: Apache-2.0
// The states that clients keep, by id. An id never changes what it names: going on from it makes another one. With a
// store, memory holds those that were used last, and the others are fetched. Of the io thread alone.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "carousel/serve/store.h"

namespace carousel::serve {

/// "prefix-" and 128 bits of the system's randomness: who does not know the id cannot guess it.
std::string draw_id(const std::string& prefix);

/// What the store has said to one call: its cards by id, none for a state that it does not have; and its whole list.
struct StoreAnswers {
  std::map<std::string, std::optional<StateCard>> cards;
  std::optional<std::vector<StateCard>> list;
};

/// Thrown where the store has to be asked first: States::ask() does.
struct Elsewhere {
  enum class What { kCard, kState, kList };  // asked for: cards, a state to be brought to memory, all cards
  What what = What::kCard;
  std::string id;
  int64_t tokens = INT64_MAX;  // kCard: also those of what it went on from, up to the first of so many tokens
};

class States {
 public:
  /// most_bytes: of memory. `store`: where states outlive the server; null: nowhere.
  States(size_t most_bytes, std::unique_ptr<Store> store) : most_bytes_(most_bytes), store_(std::move(store)) {}

  /// Keeps a state under a new id that nobody can guess, and begins to store it. Throws HttpError (507) where the
  /// states would exceed their bytes, of memory or of the store.
  std::shared_ptr<const KeptState> add(model::SavedState saved, const std::string& parent, const std::string& owner);
  /// The same under `id`; it is stored once attach() has said what the endpoint answers when it is asked for it again.
  std::shared_ptr<const KeptState> add(model::SavedState saved, const std::string& parent, const std::string& owner,
                                       const std::string& id);
  void attach(const std::string& id, Json answer);
  /// Tells `then` once a state is stored, or what went wrong; empty: nothing did.
  void when_stored(const std::string& id, Store::Told then);
  bool has_store() const { return store_ != nullptr; }

  /// From now on the functions below know what the store has said to this call. They throw Elsewhere until it has said
  /// enough, so they are for the call's beginning, which is repeated, and change nothing before. Null: to no call.
  void use(std::shared_ptr<const StoreAnswers> answers) { answers_ = std::move(answers); }
  /// Asks the store for what was thrown, and adds what it says to `answers`. `then` is told what went wrong.
  void ask(const Elsewhere& wanted, const std::shared_ptr<StoreAnswers>& answers, Store::Told then);

  /// Throws HttpError (404), or Elsewhere.
  std::shared_ptr<const KeptState> find(const std::string& id, const std::string& owner);
  /// What is known of a state without its tensors. Throws HttpError (404), or Elsewhere.
  StateCard card(const std::string& id, const std::string& owner);
  /// The nearest one among `id` and what it went on from whose tokens are the first ones of `id`'s, at most `tokens`;
  /// null: none is that short. Throws HttpError (404), or Elsewhere.
  std::shared_ptr<const KeptState> ancestor(const std::string& id, const std::string& owner, int64_t tokens);
  /// `then` is told once it is gone. Throws HttpError (404), or Elsewhere.
  void remove(const std::string& id, const std::string& owner, const Store::Told& then);
  std::vector<StateCard> list(const std::string& owner);  // by the second of their making; throws Elsewhere

  size_t count() const { return kept_.size(); }  // in memory
  size_t bytes() const { return bytes_; }
  size_t stored_bytes() const { return store_ ? store_->bytes() : 0; }
  int64_t failures() const { return failures_; }  // states that could not be stored

 private:
  struct Resident {
    std::shared_ptr<KeptState> kept;
    bool storing = false;              // the store has it under way
    std::vector<Store::Told> waiters;  // of when_stored()
    uint64_t used = 0;                 // when
  };
  using Residents = std::map<std::string, Resident>;

  Residents::iterator resident(const std::string& id, const std::string& owner);
  const std::optional<StateCard>& stored_card(const std::string& id, int64_t tokens = INT64_MAX) const;
  void fetch(const std::string& id, Store::Told then);
  void make_room(size_t bytes, uint64_t spared);
  [[noreturn]] void refuse(size_t bytes) const;
  void keep(std::shared_ptr<KeptState> kept);
  void forget(Residents::iterator at);
  void store(const std::string& id);
  void stored(const std::string& id, const HttpError& error);

  const size_t most_bytes_;
  const std::unique_ptr<Store> store_;
  size_t bytes_ = 0;
  int64_t failures_ = 0;
  uint64_t clock_ = 0;
  Residents kept_;
  std::map<std::string, std::vector<Store::Told>> fetching_;  // by id: who waits for the state
  std::shared_ptr<const StoreAnswers> answers_;               // to the call under way
};

}  // namespace carousel::serve
