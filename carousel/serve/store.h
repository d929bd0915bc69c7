// SPDX-License-Identifier: Apache-2.0
// States in a folder, where they outlive the server and other servers of the same model find them. A state is two
// files: ID.safetensors (docs/state.md) and its manifest, ID.json. The invariants are numbered in store.cc.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <ctime>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/core/thread.h"
#include "carousel/model/saved_state.h"
#include "carousel/serve/call.h"

namespace carousel::serve {

/// What is said of a state without its tensors.
struct StateCard {
  std::string id, parent;   // parent: the id it went on from; empty: none
  std::string owner;        // whose it is: others do not see it
  int64_t tokens = 0;       // that it has seen
  size_t bytes = 0;         // of its tensors, those it shares counted too
  std::time_t created = 0;  // when
  std::time_t expires = 0;  // when it goes; 0: never
  bool stored = false;      // it is on the disk
  Json answer;              // of /v1/responses; null: of another endpoint
  bool expired() const { return expires > 0 && expires <= std::time(nullptr); }
};

/// What is told where nothing went wrong.
inline const HttpError kNoError{0, "", "", "", {}};
/// What is told of a state that went while somebody waited for it.
inline HttpError removed_error(const std::string& id) {
  return {404, "state: \"" + id + "\" was removed", "state", "state_not_found", {}};
}

/// A state that is kept, with its tensors.
struct KeptState : StateCard {
  model::SavedState saved;
};

struct StoreOptions {
  std::string folder;                    // empty: no store
  size_t most_bytes = size_t{16} << 30;  // of all its files
  int64_t ttl = 0;                       // seconds until a state expires; 0: never
};

class Store {
 public:
  /// `post` runs a function on the thread that owns the store, later. Throws Error(kIo) where the folder cannot be made
  /// or written.
  using Post = std::function<void(std::function<void()>)>;
  Store(const StoreOptions& options, const model::Model& model, Post post);
  /// Writes what put() was given first.
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  // All of these are called on the thread of `post`.

  /// Throws HttpError (507) where `bytes` more do not fit.
  void check_room(size_t bytes) const;
  /// Writes a state beside everything else. `done` is told what went wrong; kNoError: it is on the disk.
  using Told = std::function<void(const HttpError& error)>;
  void put(std::shared_ptr<const KeptState> kept, Told done);
  /// Reads a state whose card look() gave. `then` is told of the state, or (null) of what went wrong.
  using Loaded = std::function<void(std::shared_ptr<KeptState> kept, const HttpError& error)>;
  void load(const std::string& id, Loaded then);
  /// The card of a state on the disk that has not expired; none: there is no such state of this model.
  std::optional<StateCard> look(const std::string& id) const;
  /// Whether look() would find one, without reading its manifest.
  bool has(const std::string& id) const;
  std::vector<StateCard> list() const;
  /// Removes the state from the disk, or keeps it from getting there.
  void remove(const std::string& id);
  std::time_t expires() const { return options_.ttl > 0 ? std::time(nullptr) + options_.ttl : 0; }
  size_t bytes() const { return used_bytes_ + coming_bytes_; }

 private:
  struct Put {
    std::shared_ptr<const KeptState> kept;
    Told done;
    size_t bytes;  // that it counts in coming_bytes_
  };
  struct Get {
    std::string id;
    Loaded then;
  };
  std::string path(const std::string& id, const char* ending) const;
  void run();
  void write(Put& put);
  HttpError not_written(size_t bytes) const;
  void read(Get& get);
  void unlink_files(const std::string& id) const;
  void sweep();
  bool has_expired(const std::string& id) const;
  bool is_orphan(const std::string& id) const;

  const StoreOptions options_;
  const model::Model& model_;
  const Post post_;
  mutable std::atomic<size_t> used_bytes_{0};  // of the files in the folder; others' are counted by sweep()
  std::atomic<size_t> coming_bytes_{0};        // of what put() was given and is not counted yet

  mutable std::mutex mutex_;
  std::condition_variable news_;
  std::deque<Put> puts_;            // guarded by mutex_
  std::deque<Get> gets_;            // guarded by mutex_
  std::string writing_;             // guarded by mutex_: the id that the thread writes; empty: none
  std::set<std::string> unwanted_;  // guarded by mutex_: ids that were removed while they were written
  bool stopping_ = false;           // guarded by mutex_
  std::unique_ptr<Thread> thread_;  // last: it uses all of the above
};

}  // namespace carousel::serve
