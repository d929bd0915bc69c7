// SPDX-License-Identifier: Apache-2.0
// Where states outlive the server: a folder or a Redis, which other servers of the same model may use too. A state is a
// file (docs/state.md) and its manifest, and it is there when its manifest is. Any thread may call a shelf.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "carousel/core/json.h"
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
  bool stored = false;      // the store has it
  Json answer;              // of /v1/responses; null: of another endpoint
  bool expired() const { return expires > 0 && expires <= std::time(nullptr); }
};

/// A state that is kept, with its tensors.
struct KeptState : StateCard {
  model::SavedState saved;
};

/// What is told where nothing went wrong.
inline const HttpError kNoError{0, "", "", "", {}};

class Shelf {
 public:
  virtual ~Shelf() = default;

  /// Writes a state, whole or not at all, and gives the bytes that it takes. Throws HttpError.
  virtual size_t write(const KeptState& kept) = 0;
  /// Reads the state's file; none: it is not there (any more). Throws HttpError; Error(kState): the file is damaged.
  virtual std::optional<model::SavedState> read(const std::string& id) = 0;
  /// A state's manifest; none: it is not there. Throws HttpError where that cannot be said.
  virtual std::optional<std::string> manifest(const std::string& id) = 0;
  /// Those of all states, with their ids. Throws HttpError.
  virtual std::vector<std::pair<std::string, std::string>> manifests() = 0;
  /// Gives the bytes that this frees. Throws HttpError.
  virtual size_t remove(const std::string& id) = 0;
  /// Removes what has expired and what dead writers left, and gives the bytes of the rest. Throws HttpError.
  virtual size_t sweep() = 0;
};

/// Where a Redis is: redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE].
struct RedisAddress {
  std::string host;  // empty: none
  int port = 6379;
  int database = 0;
  std::string user, password;           // empty: none
  size_t part_bytes = size_t{8} << 20;  // the most of a file under one key
  std::string name() const;             // without user and password
};
bool has_redis();  // false: a build without hiredis
bool is_redis(const std::string& place);
/// Throws Error(kUsage), which shows nothing of the password.
RedisAddress parse_redis(const std::string& url);

/// Both throw Error(kIo) where there is no such place, or it cannot be used; the second one also in a build without
/// hiredis. `model` must outlive them. `scratch`: a folder for files under way.
std::unique_ptr<Shelf> open_folder(const std::string& folder, const model::Model& model);
std::unique_ptr<Shelf> open_redis(const RedisAddress& address, const model::Model& model, const std::string& scratch);

/// Whether an id is one that draw_id() may have made, letters and 32 hexadecimal digits: it becomes a name of a file.
bool is_id(const std::string& id);
constexpr size_t kMostManifest = size_t{64} << 20;  // bytes of a manifest: its answer may be long
/// What a manifest says, beside what a shelf adds to it for itself.
Json manifest_of(const KeptState& kept, const std::string& fingerprint);
/// Its text, and that of any JSON: bytes that are not UTF-8 are replaced.
std::string text_of(const Json& json);
/// None: the text is no manifest. `fingerprint`: of the model that it says it belongs to.
std::optional<StateCard> read_manifest(const std::string& text, const std::string& id, std::string& fingerprint);
/// model::load_state, whose errors do not show the path.
model::SavedState load_file(const std::string& path, const model::Model& model);
/// What is told where a place for states is full, and where it does not answer or fails.
HttpError full_error(const std::string& what);
HttpError unavailable_error(const std::string& what);

}  // namespace carousel::serve
