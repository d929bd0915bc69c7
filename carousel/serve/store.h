// SPDX-License-Identifier: Apache-2.0
// The states of a shelf beside the server: what is asked of them is done on threads of the store, and told on the
// thread that owns it, which never waits for a disk or a network. The invariants are numbered in store.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "carousel/serve/lane.h"
#include "carousel/serve/shelf.h"

namespace carousel::serve {

/// What is told of a state that went while somebody waited for it.
inline HttpError removed_error(const std::string& id) {
  return {404, "state: \"" + id + "\" was removed", "state", "state_not_found", {}};
}

struct StoreOptions {
  std::string folder;                    // empty: none
  RedisAddress redis;                    // without a host: none
  size_t most_bytes = size_t{16} << 30;  // of all its states
  int64_t ttl = 0;                       // seconds until a state expires; 0: never
  bool none() const { return folder.empty() && redis.host.empty(); }
};

class Store {
 public:
  /// `post` runs a function on the thread that owns the store, later.
  using Post = std::function<void(std::function<void()>)>;
  Store(std::unique_ptr<Shelf> shelf, const StoreOptions& options, const model::Model& model, Post post);
  /// Writes what put() was given first.
  ~Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // All of these are called on the thread of `post`. They are told what went wrong; kNoError: nothing.

  /// Throws HttpError (507) where `bytes` more do not fit.
  void check_room(size_t bytes) const;
  /// Writes a state.
  using Told = std::function<void(const HttpError& error)>;
  void put(std::shared_ptr<const KeptState> kept, Told done);
  /// Reads a state. `then` is told of it; null: of what went wrong.
  using Loaded = std::function<void(std::shared_ptr<KeptState> kept, const HttpError& error)>;
  void load(const std::string& id, Loaded then);
  /// The card of a state that has not expired, by id; none: there is no such state of this model.
  using Card = std::pair<std::string, std::optional<StateCard>>;
  using Looked = std::function<void(std::vector<Card> cards, const HttpError& error)>;
  /// Tells the card of a state, and those of what it went on from, up to the first of at most `tokens` tokens.
  void look(const std::string& id, int64_t tokens, Looked then);
  /// Tells the cards of all states.
  void list(Looked then);
  /// Removes a state, or keeps it from being written.
  void remove(const std::string& id, Told done);
  std::time_t expires() const { return options_.ttl > 0 ? std::time(nullptr) + options_.ttl : 0; }
  size_t bytes() const { return used_bytes_ + coming_bytes_; }

 private:
  void write(const KeptState& kept, size_t bytes, const Told& done);
  void read(const std::string& id, const Loaded& then);
  std::shared_ptr<KeptState> fetch(const std::string& id);
  std::optional<StateCard> card_of(const std::string& id, const std::string& manifest) const;
  std::optional<StateCard> find(const std::string& id);
  void drop(const std::string& id);
  bool is_unwanted(const std::string& id);
  void sweep();

  const StoreOptions options_;
  const model::Model& model_;
  const Post post_;
  const std::unique_ptr<Shelf> shelf_;
  std::atomic<size_t> used_bytes_{0};    // of the states on the shelf; others' are counted by sweep()
  std::atomic<size_t> coming_bytes_{0};  // of what put() was given and is not counted yet

  std::mutex mutex_;
  std::map<std::string, bool> coming_;  // guarded by mutex_: ids that put() was given; true: removed since

  Lane asks_, reads_, writes_;  // last: they use all of the above
};

}  // namespace carousel::serve
