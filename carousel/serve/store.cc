// SPDX-License-Identifier: Apache-2.0
// The folder of states and the thread that reads and writes it.
//
// 1. A state is there when its manifest is. The manifest is renamed into place last, when the tensors were flushed, and
//    is unlinked first. So a writer that is killed, or a state that is being removed, never shows half.
// 2. The draft of a manifest is locked from before the first byte of the tensors until the manifest has its name. So a
//    file of tensors without a manifest whose draft nobody holds is a dead writer's, and any server of the folder
//    removes it.
// 3. An id in unwanted_ was removed while the thread was writing it. look() does not find it, and the thread alone
//    unlinks its files, before it takes the id out. No flush runs under mutex_: the owner's thread never waits for the
//    disk to write.
// 4. Files never change once they have their names. Servers of one folder tell each other nothing else.
// 5. Only files whose names begin with an id, and drafts of these, are ever removed: others in the folder are not ours.
#include "carousel/serve/store.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <utility>

#include "carousel/core/draft.h"
#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/formats/new_file.h"

namespace carousel::serve {
namespace {

constexpr const char* kTensors = ".safetensors";
constexpr const char* kManifest = ".json";
constexpr size_t kMostManifest = size_t{64} << 20;
constexpr size_t kHeaderBytes = 16 << 10;  // more than the parts of the files that are neither tensors nor answers
constexpr auto kSweepEvery = std::chrono::seconds(30);

/// Whether an id is one that draw_id() may have made, letters and 32 hexadecimal digits: it becomes the name of a file.
bool is_id(const std::string& id) {
  constexpr size_t kDigits = 32;
  const size_t dash = id.find('-');
  if (dash == id.npos || dash == 0 || id.size() != dash + 1 + kDigits) return false;
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  const auto end = id.begin() + static_cast<std::ptrdiff_t>(dash);
  return std::all_of(id.begin(), end, is_letter) && std::all_of(end + 1, id.end(), is_digit);
}

/// Whether `name` is that of a draft of one of our files: ".ID.json" or ".ID.safetensors", and an ending.
bool is_our_draft(const std::string& name) {
  const size_t end = name.find('.', 1);
  if (!name.starts_with('.') || end == name.npos || !name.ends_with(kDraftEnding)) return false;
  const std::string rest = name.substr(end);
  return is_id(name.substr(1, end - 1)) && (rest.starts_with(kManifest) || rest.starts_with(kTensors));
}

Json manifest_of(const KeptState& kept, const std::string& model) {
  return {{"format", "carousel.stored"}, {"model", model},          {"parent", kept.parent},
          {"owner", kept.owner},         {"tokens", kept.tokens},   {"bytes", kept.bytes},
          {"created", kept.created},     {"expires", kept.expires}, {"answer", kept.answer}};
}

/// Throws Error: absent, or no manifest.
StateCard read_manifest(const std::string& path, const std::string& id, std::string& model) {
  constexpr int64_t kAny = INT64_MAX;
  JsonLimits limits;
  limits.max_bytes = kMostManifest;
  const Json json = parse_json(read_text_file(path, kMostManifest), path, limits);
  Fields fields(json, path);
  StateCard card;
  card.id = id;
  card.stored = true;
  model = fields.string("model");
  card.parent = fields.string("parent");
  card.owner = fields.string("owner");
  card.tokens = fields.integer("tokens", 0, kAny);
  card.bytes = static_cast<size_t>(fields.integer("bytes", 0, kAny));
  card.created = fields.integer("created", 0, kAny);
  card.expires = fields.integer("expires", 0, kAny);
  if (const Json* const answer = fields.raw("answer")) card.answer = *answer;
  return card;
}

size_t size_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
}

bool is_there(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

/// Not the opposite of is_there(): a file system that fails says neither.
bool is_absent(const std::string& path) { return !is_there(path) && errno == ENOENT; }

std::string text_of(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

size_t room_of(const KeptState& kept) {
  return kept.bytes + kHeaderBytes + (kept.answer.is_null() ? 0 : text_of(kept.answer).size());
}

}  // namespace

Store::Store(const StoreOptions& options, const model::Model& model, Post post)
    : options_(options), model_(model), post_(std::move(post)) {
  std::error_code error;
  if (std::filesystem::create_directories(options_.folder, error)) {
    std::filesystem::permissions(options_.folder, std::filesystem::perms::owner_all, error);
  }
  if (::access(options_.folder.c_str(), R_OK | W_OK | X_OK) != 0 || !is_folder(options_.folder)) {
    fail(ErrorKind::kIo, "{}: expected a folder that can be written, for states", options_.folder);
  }
  sweep();
  thread_ = std::make_unique<Thread>([this] { run(); });
}

Store::~Store() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  news_.notify_one();
  thread_.reset();
}

std::string Store::path(const std::string& id, const char* ending) const { return options_.folder + "/" + id + ending; }

void Store::check_room(size_t bytes) const {
  const size_t all = this->bytes() + bytes + kHeaderBytes;
  if (all <= options_.most_bytes) return;
  throw HttpError{507,
                  fmt::format("keep_state: the stored states would take {} bytes, expected at most {}; delete some",
                              all, options_.most_bytes),
                  "keep_state",
                  "store_full",
                  {{"x-should-retry", "false"}}};
}

void Store::put(std::shared_ptr<const KeptState> kept, Told done) {
  const size_t bytes = room_of(*kept);
  coming_bytes_ += bytes;
  {
    const std::lock_guard lock(mutex_);
    puts_.push_back({std::move(kept), std::move(done), bytes});
  }
  news_.notify_one();
}

void Store::load(const std::string& id, Loaded then) {
  {
    const std::lock_guard lock(mutex_);
    gets_.push_back({id, std::move(then)});
  }
  news_.notify_one();
}

bool Store::has(const std::string& id) const {
  if (!is_id(id)) return false;
  {
    const std::lock_guard lock(mutex_);
    if (unwanted_.contains(id)) return false;
  }
  return is_there(path(id, kManifest));
}

std::optional<StateCard> Store::look(const std::string& id) const {
  if (!has(id)) return {};
  try {
    std::string model;
    StateCard card = read_manifest(path(id, kManifest), id, model);
    if (model == model_.fingerprint && !card.expired()) return card;
  } catch (const Error&) {  // removed meanwhile, or not ours
  }
  return {};
}

std::vector<StateCard> Store::list() const {
  std::vector<StateCard> out;
  for (const std::string& name : names_in(options_.folder)) {
    if (!name.ends_with(kManifest)) continue;
    const std::string id = name.substr(0, name.size() - std::string_view(kManifest).size());
    if (auto card = look(id)) out.push_back(std::move(*card));
  }
  return out;
}

void Store::remove(const std::string& id) {
  if (!is_id(id)) return;
  std::vector<Put> dropped;  // destroyed without the lock
  bool writing = false;
  {
    const std::lock_guard lock(mutex_);
    const auto first =
        std::stable_partition(puts_.begin(), puts_.end(), [&](const Put& put) { return put.kept->id != id; });
    std::move(first, puts_.end(), std::back_inserter(dropped));
    puts_.erase(first, puts_.end());
    writing = writing_ == id;
    if (writing) unwanted_.insert(id);
  }
  for (const Put& put : dropped) coming_bytes_ -= put.bytes;
  if (!writing) unlink_files(id);
}

void Store::unlink_files(const std::string& id) const {
  const std::string manifest = path(id, kManifest), tensors = path(id, kTensors);
  const size_t bytes = size_of(manifest) + size_of(tensors);
  ::unlink(manifest.c_str());
  ::unlink(tensors.c_str());
  size_t used = used_bytes_;
  while (!used_bytes_.compare_exchange_weak(used, used - std::min(bytes, used))) {
  }
}

void Store::run() {
  auto swept = std::chrono::steady_clock::now();
  for (;;) {
    std::optional<Put> put;
    std::optional<Get> get;
    {
      std::unique_lock lock(mutex_);
      news_.wait_until(lock, swept + kSweepEvery, [&] { return stopping_ || !puts_.empty() || !gets_.empty(); });
      if (!gets_.empty() && !stopping_) {  // a client waits for it
        get = std::move(gets_.front());
        gets_.pop_front();
      } else if (!puts_.empty()) {
        put = std::move(puts_.front());
        puts_.pop_front();
        writing_ = put->kept->id;
      } else if (stopping_) {
        return;
      }
    }
    if (get) read(*get);
    if (put) write(*put);
    if (std::chrono::steady_clock::now() < swept + kSweepEvery) continue;
    try {
      sweep();
    } catch (const Error&) {  // the folder cannot be listed: what is in it is counted another time
    }
    swept = std::chrono::steady_clock::now();
  }
}

/// Why a state of `bytes` could not be written. Clients are not told the path.
HttpError Store::not_written(size_t bytes) const {
  std::error_code unknown;
  const std::filesystem::space_info space = std::filesystem::space(options_.folder, unknown);
  if (!unknown && space.available < bytes) {
    return {
        507, "keep_state: the disk of the store is full", "keep_state", "store_full", {{"x-should-retry", "false"}}};
  }
  return {500, "keep_state: the store could not write the state", "keep_state", "", {}};
}

void Store::write(Put& put) {
  const KeptState& kept = *put.kept;
  HttpError wrong = kNoError;
  try {
    formats::NewFile manifest(path(kept.id, kManifest));  // its draft says that the tensors have a writer
    model::save_state(path(kept.id, kTensors), kept.saved, model_);
    const std::string text = text_of(manifest_of(kept, model_.fingerprint));
    manifest.put(text.data(), text.size(), 0);
    manifest.finish();
  } catch (const std::exception&) {
    wrong = not_written(put.bytes);
  }
  used_bytes_ += size_of(path(kept.id, kTensors)) + size_of(path(kept.id, kManifest));
  coming_bytes_ -= put.bytes;
  bool unwanted = false;
  {
    const std::lock_guard lock(mutex_);
    writing_.clear();
    unwanted = unwanted_.contains(kept.id);
  }
  if (unwanted) wrong = removed_error(kept.id);
  if (wrong.status != 0) unlink_files(kept.id);
  if (unwanted) {
    const std::lock_guard lock(mutex_);
    unwanted_.erase(kept.id);
  }
  post_([done = std::move(put.done), wrong] { done(wrong); });
}

void Store::read(Get& get) {
  HttpError error{404, fmt::format("state: \"{}\" is not kept here", get.id), "state", "state_not_found", {}};
  std::shared_ptr<KeptState> kept;
  try {
    if (const std::optional<StateCard> card = look(get.id)) {
      kept = std::make_shared<KeptState>();
      static_cast<StateCard&>(*kept) = *card;
      kept->saved = model::load_state(path(get.id, kTensors), model_);
    }
  } catch (const std::exception& wrong) {
    kept.reset();
    if (has(get.id)) error = {422, fmt::format("state: {}", wrong.what()), "state", "state_refused", {}};
  }
  post_([then = std::move(get.then), kept, error] { then(kept, error); });
}

/// Removes what has expired and what dead writers left, and counts the bytes of the rest.
void Store::sweep() {
  size_t bytes = 0;
  for (const std::string& name : names_in(options_.folder)) {
    const std::filesystem::path parts(name);
    const std::string id = parts.stem(), ending = parts.extension(), file = options_.folder + "/" + name;
    if (is_our_draft(name)) {
      Draft draft;
      if (draft.take_left(file) == Draft::Taken::kYes) draft.remove();
    } else if (is_id(id) && (ending == kManifest || ending == kTensors)) {
      const bool gone = ending == kManifest ? has_expired(id) : is_orphan(id);
      if (gone) unlink_files(id);
      bytes += gone ? 0 : size_of(file);
    }
  }
  used_bytes_ = bytes;
}

bool Store::has_expired(const std::string& id) const {
  try {
    std::string model;
    return read_manifest(path(id, kManifest), id, model).expired();
  } catch (const Error&) {
    return false;  // another server has removed it meanwhile, or it is not ours
  }
}

/// Whether tensors have neither a manifest nor a writer.
bool Store::is_orphan(const std::string& id) const {
  const std::string manifest = path(id, kManifest);
  if (!is_absent(manifest)) return false;
  for (int slot = 0; slot < kDraftSlots; ++slot) {
    if (is_held(draft_name(manifest, slot))) return false;
  }
  return is_absent(manifest);  // it may have got its name since it was asked for first
}

}  // namespace carousel::serve
