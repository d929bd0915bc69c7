// SPDX-License-Identifier: Apache-2.0
// States in a Redis.
//
//   carousel:state:ID    the manifest, with the number of parts
//   carousel:part:ID:K   the K-th part_bytes of the file
//   carousel:states      a hash: ID to the bytes of all of these
//
// 1. A state is there when its manifest is. The manifest, its entry in the hash and the parts' time to live are written
//    in one transaction, after all parts; they are removed in one. So a server or a Redis that is killed while a state
//    is saved never shows half.
// 2. Parts without a manifest expire after kLease: those of a writer that died go by themselves. A writer counts its
//    parts before it shows them, and gives up where it has taken longer than half of kLease.
// 3. Every command may be repeated. One that fails on a connection that was used before is tried on a new one, for the
//    Redis may have been started again. Once that fails too nothing is tried for kRest, so that many calls do not wait
//    for a Redis that hangs, one after the other.
// 4. A connection is used by one thread at a time, which takes it out of idle_ under mutex_.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <type_traits>

#include "carousel/core/error.h"
#include "carousel/serve/redis_connection.h"
#include "carousel/serve/scratch_file.h"

namespace carousel::serve {
namespace {

using Clock = std::chrono::steady_clock;
using Command = RedisConnection::Command;

constexpr auto kLease = std::chrono::seconds(3600);
constexpr auto kRest = std::chrono::seconds(1);
constexpr size_t kBatch = 64;  // manifests that are asked for at a time
constexpr const char* kStates = "carousel:states";

std::string manifest_key(const std::string& id) { return "carousel:state:" + id; }

std::string part_key(const std::string& id, size_t part) { return fmt::format("carousel:part:{}:{}", id, part); }
std::vector<std::string> part_keys(const std::string& id, size_t parts) {
  std::vector<std::string> out;
  for (size_t k = 0; k < parts; ++k) out.push_back(part_key(id, k));
  return out;
}

/// How many parts a manifest says that the file has; 0: it does not say.
size_t parts_of(const std::string& manifest) {
  constexpr size_t kMost = 1 << 16;
  const Json json = Json::parse(manifest, nullptr, false);
  if (!json.is_object() || !json.contains("parts") || !json["parts"].is_number_unsigned()) return 0;
  return std::min(json["parts"].get<size_t>(), kMost);
}

size_t size_of(const RedisReply& reply) { return std::strtoull(reply.text.c_str(), nullptr, 10); }

Command with_all(Command command, const std::vector<std::string>& words) {
  command.insert(command.end(), words.begin(), words.end());
  return command;
}

/// Calls `visit` with some ids of the hash, and the keys of their manifests, at a time.
template <class Visit>
void each_batch(RedisConnection& redis, const Visit& visit) {
  const RedisReply all = redis.ask({"HKEYS", kStates});
  for (size_t begin = 0; begin < all.list.size(); begin += kBatch) {
    std::vector<std::string> ids, keys;
    for (size_t i = begin; i < std::min(begin + kBatch, all.list.size()); ++i) {
      ids.push_back(all.list[i].text);
      keys.push_back(manifest_key(ids.back()));
    }
    visit(ids, keys);
  }
}

/// Writes the parts of a file, of at most `most` bytes, and gives their keys. `bytes`: their sum.
std::vector<std::string> write_parts(RedisConnection& redis, const std::string& id, const std::string& path,
                                     size_t most, size_t& bytes) {
  const auto begin = Clock::now();
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> keys;
  std::string part(most, '\0');
  const std::string lease = std::to_string(kLease.count());
  while (file.read(part.data(), std::ssize(part)), file.gcount() > 0) {
    const std::string_view piece(part.data(), static_cast<size_t>(file.gcount()));
    keys.push_back(part_key(id, keys.size()));
    redis.ask({"SET", keys.back(), piece, "EX", lease});
    bytes += piece.size();
  }
  const bool whole = redis.ask(with_all({"EXISTS"}, keys)).number == std::ssize(keys);
  if (!whole || Clock::now() > begin + kLease / 2)
    throw unavailable_error("lost a part of the state while it was saved");
  return keys;
}

/// Lets a state be found whose parts are there. `bytes` of these become those of the whole.
void show(RedisConnection& redis, const KeptState& kept, const std::string& fingerprint,
          const std::vector<std::string>& parts, size_t& bytes) {
  Json manifest = manifest_of(kept, fingerprint);
  manifest["parts"] = parts.size();
  const std::string text = text_of(manifest), key = manifest_key(kept.id), expires = std::to_string(kept.expires);
  bytes += text.size();
  const std::string all = std::to_string(bytes);
  std::vector<Command> commands = {{"MULTI"}, {"SET", key, text}, {"HSET", kStates, kept.id, all}};
  if (kept.expires > 0) commands.push_back({"EXPIREAT", key, expires});
  for (const std::string& part : parts) {
    commands.push_back(kept.expires > 0 ? Command{"EXPIREAT", part, expires} : Command{"PERSIST", part});
  }
  commands.push_back({"EXEC"});
  for (const RedisReply& reply : redis.ask_all(commands)) check_reply(reply);
}

/// Whether the state is there; its file is then written to `path`. Throws Error(kState) where parts of it are missing.
bool read_parts(RedisConnection& redis, const std::string& id, const std::string& path) {
  const std::string key = manifest_key(id);
  const RedisReply manifest = redis.ask({"GET", key});
  if (manifest.kind != RedisReply::Kind::kText) return false;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  for (const std::string& part : part_keys(id, parts_of(manifest.text))) {
    const RedisReply piece = redis.ask({"GET", part});
    if (piece.kind != RedisReply::Kind::kText) {
      if (redis.ask({"EXISTS", key}).number == 0) return false;  // removed meanwhile
      fail(ErrorKind::kState, "state: a part of it is missing in the store");
    }
    file.write(piece.text.data(), std::ssize(piece.text));
  }
  file.close();
  if (!file) throw HttpError{500, "state: it cannot be written to a file under way", "", "", {}};
  return true;
}

class RedisShelf : public Shelf {
 public:
  RedisShelf(RedisAddress address, const model::Model& model, std::string scratch)
      : address_(std::move(address)), model_(model), scratch_(std::move(scratch)) {
    try {
      give(std::make_unique<RedisConnection>(address_));
    } catch (const RedisLost& error) {
      fail(ErrorKind::kIo, "{}: it cannot be reached: {}", address_.name(), error.why);
    }
  }

  size_t write(const KeptState& kept) override {
    const ScratchFile scratch(scratch_);
    model::save_state(scratch.path(), kept.saved, model_);
    return use([&](RedisConnection& redis) {
      size_t bytes = 0;
      const std::vector<std::string> parts = write_parts(redis, kept.id, scratch.path(), address_.part_bytes, bytes);
      show(redis, kept, model_.fingerprint, parts, bytes);
      return bytes;
    });
  }

  std::optional<model::SavedState> read(const std::string& id) override {
    const ScratchFile scratch(scratch_);
    const bool found = use([&](RedisConnection& redis) { return read_parts(redis, id, scratch.path()); });
    if (!found) return {};
    return load_file(scratch.path(), model_);
  }

  std::optional<std::string> manifest(const std::string& id) override {
    const std::string key = manifest_key(id);
    RedisReply reply = use([&](RedisConnection& redis) { return redis.ask({"GET", key}); });
    if (reply.kind != RedisReply::Kind::kText) return {};
    return std::move(reply.text);
  }

  std::vector<std::pair<std::string, std::string>> manifests() override {
    return use([&](RedisConnection& redis) {
      std::vector<std::pair<std::string, std::string>> out;
      each_batch(redis, [&](const std::vector<std::string>& ids, const std::vector<std::string>& keys) {
        const RedisReply texts = redis.ask(with_all({"MGET"}, keys));
        for (size_t i = 0; i < std::min(ids.size(), texts.list.size()); ++i) {
          if (texts.list[i].kind == RedisReply::Kind::kText) out.emplace_back(ids[i], texts.list[i].text);
        }
      });
      return out;
    });
  }

  size_t remove(const std::string& id) override {
    const std::string key = manifest_key(id);
    return use([&](RedisConnection& redis) {
      const RedisReply bytes = redis.ask({"HGET", kStates, id}), manifest = redis.ask({"GET", key});
      const std::vector<std::string> parts = part_keys(id, parts_of(manifest.text));
      const Command unlink = with_all({"UNLINK", key}, parts);
      for (const RedisReply& reply : redis.ask_all({{"MULTI"}, unlink, {"HDEL", kStates, id}, {"EXEC"}})) {
        check_reply(reply);
      }
      return size_of(bytes);
    });
  }

  /// Redis itself removes what has expired; its entries in the hash go here.
  size_t sweep() override {
    return use([&](RedisConnection& redis) {
      size_t all = 0;
      each_batch(redis, [&](const std::vector<std::string>& ids, const std::vector<std::string>& keys) {
        std::vector<Command> commands;
        for (size_t i = 0; i < ids.size(); ++i) {
          commands.push_back({"EXISTS", keys[i]});
          commands.push_back({"HGET", kStates, ids[i]});
        }
        const std::vector<RedisReply> replies = redis.ask_all(commands);
        for (size_t i = 0; i < ids.size(); ++i) {
          check_reply(replies[2 * i]);
          const bool is_there = replies[2 * i].number > 0;
          all += is_there ? size_of(replies[2 * i + 1]) : 0;
          if (!is_there) redis.ask({"HDEL", kStates, ids[i]});
        }
      });
      return all;
    });
  }

 private:
  /// `work` with a connection, perhaps twice. Throws HttpError (503) where none is to be had.
  template <class Work>
  std::invoke_result_t<Work, RedisConnection&> use(const Work& work) {
    for (;;) {
      bool gives_up = false;
      std::string why;
      try {
        std::unique_ptr<RedisConnection> redis = take(gives_up);
        auto out = work(*redis);
        give(std::move(redis));
        return out;
      } catch (const RedisLost& error) {
        why = error.why;
        gives_up = gives_up || error.timed_out;
      } catch (const Error& error) {
        if (error.kind() == ErrorKind::kState) throw;
        throw unavailable_error("refuses the connection");
      }
      const std::lock_guard lock(mutex_);
      idle_.clear();
      if (!gives_up) continue;
      rests_until_ = Clock::now() + kRest;
      throw unavailable_error("cannot be reached: " + why);
    }
  }

  std::unique_ptr<RedisConnection> take(bool& is_fresh) {
    {
      const std::lock_guard lock(mutex_);
      if (Clock::now() < rests_until_) throw unavailable_error("cannot be reached");
      if (!idle_.empty()) {
        std::unique_ptr<RedisConnection> out = std::move(idle_.back());
        idle_.pop_back();
        return out;
      }
    }
    is_fresh = true;
    return std::make_unique<RedisConnection>(address_);
  }

  void give(std::unique_ptr<RedisConnection> redis) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(redis));
  }

  const RedisAddress address_;
  const model::Model& model_;
  const std::string scratch_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<RedisConnection>> idle_;  // guarded by mutex_
  Clock::time_point rests_until_ = {};                  // guarded by mutex_: nothing is tried before
};

}  // namespace

bool has_redis() { return true; }

std::unique_ptr<Shelf> open_redis(const RedisAddress& address, const model::Model& model, const std::string& scratch) {
  return std::make_unique<RedisShelf>(address, model, scratch);
}

}  // namespace carousel::serve
