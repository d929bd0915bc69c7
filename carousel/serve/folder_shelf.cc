// SPDX-License-Identifier: Apache-2.0
// States in a folder: ID.safetensors and the manifest ID.json.
//
// 1. A state is there when its manifest is. The manifest is renamed into place last, when the tensors were flushed, and
//    is unlinked first. So a writer that is killed, or a state that is being removed, never shows half.
// 2. The draft of a manifest is locked from before the first byte of the tensors until the manifest has its name. So a
//    file of tensors without a manifest whose draft nobody holds is a dead writer's, and any server of the folder
//    removes it.
// 3. Files never change once they have their names. Servers of one folder tell each other nothing else.
// 4. Only files whose names begin with an id, and drafts of these, are ever removed: others in the folder are not ours.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "carousel/core/draft.h"
#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/formats/new_file.h"
#include "carousel/serve/shelf.h"

namespace carousel::serve {
namespace {

constexpr const char* kTensors = ".safetensors";
constexpr const char* kManifest = ".json";

/// Whether `name` is that of a draft of one of our files: ".ID.json" or ".ID.safetensors", and an ending.
bool is_our_draft(const std::string& name) {
  const size_t end = name.find('.', 1);
  if (!name.starts_with('.') || end == name.npos || !name.ends_with(kDraftEnding)) return false;
  const std::string rest = name.substr(end);
  return is_id(name.substr(1, end - 1)) && (rest.starts_with(kManifest) || rest.starts_with(kTensors));
}

size_t size_of(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
}

/// A file system that fails says neither that a file is there nor that it is absent. Throws HttpError then.
bool is_absent(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0) return false;
  if (errno == ENOENT || errno == ENOTDIR) return true;
  throw unavailable_error("cannot be read");
}

class FolderShelf : public Shelf {
 public:
  FolderShelf(std::string folder, const model::Model& model) : folder_(std::move(folder)), model_(model) {
    std::error_code error;
    if (std::filesystem::create_directories(folder_, error)) {
      std::filesystem::permissions(folder_, std::filesystem::perms::owner_all, error);
    }
    if (::access(folder_.c_str(), R_OK | W_OK | X_OK) != 0 || !is_folder(folder_)) {
      fail(ErrorKind::kIo, "{}: expected a folder that can be written, for states", folder_);
    }
  }

  size_t write(const KeptState& kept) override {
    const std::string tensors = path(kept.id, kTensors), manifest = path(kept.id, kManifest);
    try {
      formats::NewFile file(manifest);  // its draft says that the tensors have a writer
      model::save_state(tensors, kept.saved, model_);
      const std::string text = text_of(manifest_of(kept, model_.fingerprint));
      file.put(text.data(), text.size(), 0);
      file.finish();
    } catch (const std::exception&) {
      const HttpError why = not_written(kept.bytes);
      remove(kept.id);
      throw why;
    }
    return size_of(tensors) + size_of(manifest);
  }

  std::optional<model::SavedState> read(const std::string& id) override {
    try {
      return load_file(path(id, kTensors), model_);
    } catch (const Error&) {
      if (is_absent(path(id, kManifest))) return {};
      throw;
    }
  }

  std::optional<std::string> manifest(const std::string& id) override {
    const std::string file = path(id, kManifest);
    if (is_absent(file)) return {};
    try {
      return read_text_file(file, kMostManifest);
    } catch (const Error&) {
      if (is_absent(file)) return {};  // removed meanwhile
      throw unavailable_error("cannot be read");
    }
  }

  std::vector<std::pair<std::string, std::string>> manifests() override {
    std::vector<std::pair<std::string, std::string>> out;
    for (const std::string& name : names()) {
      if (!name.ends_with(kManifest)) continue;
      const std::string id = name.substr(0, name.size() - std::string_view(kManifest).size());
      if (!is_id(id)) continue;
      if (auto text = manifest(id)) out.emplace_back(id, std::move(*text));
    }
    return out;
  }

  size_t remove(const std::string& id) override {
    const std::string manifest = path(id, kManifest), tensors = path(id, kTensors);
    const size_t bytes = size_of(manifest) + size_of(tensors);
    if (::unlink(manifest.c_str()) != 0 && errno != ENOENT) throw unavailable_error("could not remove the state");
    ::unlink(tensors.c_str());
    return bytes;
  }

  size_t sweep() override {
    size_t bytes = 0;
    for (const std::string& name : names()) {
      const std::filesystem::path parts(name);
      const std::string id = parts.stem(), ending = parts.extension(), file = folder_ + "/" + name;
      if (is_our_draft(name)) {
        Draft draft;
        if (draft.take_left(file) == Draft::Taken::kYes) draft.remove();
      } else if (is_id(id) && (ending == kManifest || ending == kTensors)) {
        const bool gone = ending == kManifest ? has_expired(id) : is_orphan(id);
        if (gone) remove(id);
        bytes += gone ? 0 : size_of(file);
      }
    }
    return bytes;
  }

 private:
  std::string path(const std::string& id, const char* ending) const { return folder_ + "/" + id + ending; }

  std::vector<std::string> names() const {
    try {
      return names_in(folder_);
    } catch (const Error&) {
      throw unavailable_error("cannot be read");
    }
  }

  /// Why a state of `bytes` could not be written. Clients are not told the path.
  HttpError not_written(size_t bytes) const {
    std::error_code unknown;
    const std::filesystem::space_info space = std::filesystem::space(folder_, unknown);
    if (!unknown && space.available < bytes) return full_error("the disk of the store is full");
    return {500, "keep_state: the store could not write the state", "keep_state", "", {}};
  }

  bool has_expired(const std::string& id) {
    const std::optional<std::string> text = manifest(id);
    std::string fingerprint;
    const std::optional<StateCard> card = text ? read_manifest(*text, id, fingerprint) : std::nullopt;
    return card && card->expired();
  }

  /// Whether tensors have neither a manifest nor a writer.
  bool is_orphan(const std::string& id) const {
    const std::string manifest = path(id, kManifest);
    if (!is_absent(manifest)) return false;
    for (int slot = 0; slot < kDraftSlots; ++slot) {
      if (is_held(draft_name(manifest, slot))) return false;
    }
    return is_absent(manifest);  // it may have got its name since it was asked for first
  }

  const std::string folder_;
  const model::Model& model_;
};

}  // namespace

std::unique_ptr<Shelf> open_folder(const std::string& folder, const model::Model& model) {
  return std::make_unique<FolderShelf>(folder, model);
}

}  // namespace carousel::serve
