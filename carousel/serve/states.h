// SPDX-License-Identifier: Apache-2.0
// The states that clients keep, by id. An id never changes what it names: going on from it makes another one.
#pragma once

#include <cstdint>
#include <ctime>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/model/saved_state.h"

namespace carousel::serve {

/// "prefix-" and 128 bits of the system's randomness: who does not know the id cannot guess it.
std::string draw_id(const std::string& prefix);

struct KeptState {
  std::string id, parent;  // parent: the id it went on from; empty: none
  std::string owner;       // whose it is: a hash of the key; others do not see it
  model::SavedState saved;
  Json answer;  // of /v1/responses; null: of another endpoint
  std::time_t created = 0;
  size_t bytes = 0;  // of its tensors, those it shares counted too
};

class States {
 public:
  explicit States(size_t most_bytes) : most_bytes_(most_bytes) {}

  /// Keeps a state under `id`, a new one that nobody can guess; empty: one is drawn. Throws HttpError (507) where the
  /// states would exceed their bytes.
  std::shared_ptr<const KeptState> add(model::SavedState saved, const std::string& parent, const std::string& owner,
                                       const std::string& id = "");
  /// Adds what the endpoint answers when it is asked for this id again.
  void attach(const std::string& id, Json answer);
  /// Throws HttpError (404).
  std::shared_ptr<const KeptState> find(const std::string& id, const std::string& owner) const;
  /// The nearest one among `id` and what it went on from whose tokens are the first ones of `id`'s, at most `tokens`;
  /// null: none is that short.
  std::shared_ptr<const KeptState> ancestor(const std::string& id, const std::string& owner, int64_t tokens) const;
  void remove(const std::string& id, const std::string& owner);                        // throws HttpError (404)
  std::vector<std::shared_ptr<const KeptState>> list(const std::string& owner) const;  // oldest first

  size_t count() const { return kept_.size(); }
  size_t bytes() const { return bytes_; }

 private:
  size_t most_bytes_;
  size_t bytes_ = 0;
  std::map<std::string, std::shared_ptr<KeptState>> kept_;
  std::list<std::string> order_;  // ids, oldest first
};

}  // namespace carousel::serve
