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

/// Thrown for a state that is in the store and not in memory: fetch() brings it.
struct Elsewhere {
  std::string id;
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

  /// Throws HttpError (404), or Elsewhere.
  std::shared_ptr<const KeptState> find(const std::string& id, const std::string& owner);
  /// Brings a state from the store to memory. `then` is told what went wrong; status 0: nothing did.
  void fetch(const std::string& id, std::function<void(const HttpError& error)> then);
  /// What is known of a state without its tensors. Throws HttpError (404).
  StateCard card(const std::string& id, const std::string& owner);
  /// The nearest one among `id` and what it went on from whose tokens are the first ones of `id`'s, at most `tokens`;
  /// null: none is that short. Throws HttpError (404), or Elsewhere.
  std::shared_ptr<const KeptState> ancestor(const std::string& id, const std::string& owner, int64_t tokens);
  void remove(const std::string& id, const std::string& owner);  // throws HttpError (404)
  std::vector<StateCard> list(const std::string& owner);         // by the second of their making

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
  std::optional<StateCard> stored_card(const std::string& id, const std::string& owner) const;
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
};

}  // namespace carousel::serve
