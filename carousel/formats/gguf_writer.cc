// SPDX-License-Identifier: Apache-2.0
// The writing half of gguf.h: keys, the list of tensors, then each tensor at its own aligned place.
#include <cstring>
#include <type_traits>

#include "carousel/core/error.h"
#include "carousel/formats/gguf.h"
#include "carousel/formats/gguf_kind.h"

namespace carousel::formats {
namespace {

constexpr size_t kAlignment = 32;  // the format's default
constexpr int kMaxRank = 4;
constexpr uint32_t kVersion = 3;
constexpr uint32_t kStringKind = 8, kArrayKind = 9;

// The number that the file has for a value's type.
template <class T>
constexpr uint32_t kind_of() {
  if constexpr (std::is_same_v<T, uint32_t>) return 4;
  if constexpr (std::is_same_v<T, int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, std::string>) return kStringKind;
  if constexpr (std::is_same_v<T, uint64_t>) return 10;
  if constexpr (std::is_same_v<T, double>) return 12;
  return kArrayKind;
}

class Header {
 public:
  template <class T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  // Names the key or tensor whose texts come next, for messages.
  void begin(const std::string& what) { what_ = what; }
  void string(std::string_view text) {
    if (!is_utf8(text)) fail(ErrorKind::kInput, "{} is not valid UTF-8", what_);
    number<uint64_t>(text.size());
    bytes_.append(text);
  }
  void put(const std::string& value) { string(value); }
  void put(bool value) { number<uint8_t>(value ? 1 : 0); }
  template <class T>
  void put(const std::vector<T>& list) {
    number(kind_of<T>());
    number<uint64_t>(list.size());
    for (const T& item : list) put(item);
  }
  template <class T>
  void put(T value) {
    number(value);
  }
  void pad() { bytes_.resize((bytes_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_, what_;
};

size_t size_of(const GgufTensorSpec& spec, const std::string& path) {
  if (spec.name.empty() || spec.name.size() > kMaxGgufName) {
    fail(ErrorKind::kInput, "{}: tensor name \"{}\" has {} bytes, expected 1 to {}", path, spec.name.substr(0, 100),
         spec.name.size(), kMaxGgufName);
  }
  const int rank = spec.shape.rank();
  const std::optional<size_t> bytes = spec.type->bytes_of(spec.shape.count());
  if (rank < 1 || rank > kMaxRank || spec.shape.count() < 1 || spec.shape[-1] % spec.type->block != 0 || !bytes) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected 1 to {} dimensions with rows of whole blocks of {} for {}",
         path, spec.name, spec.shape.str(), kMaxRank, spec.type->block, spec.type->name);
  }
  return *bytes;
}

}  // namespace

GgufWriter::GgufWriter(const std::string& path, const GgufKeys& keys, const std::vector<GgufTensorSpec>& tensors)
    : path_(path) {
  Header header;
  header.number<uint32_t>(0x46554747);
  header.number(kVersion);
  header.number<uint64_t>(tensors.size());
  header.number<uint64_t>(keys.size());
  std::unordered_map<std::string, bool> seen;
  for (const auto& [key, value] : keys) {
    if (!seen.emplace(key, true).second) fail(ErrorKind::kInput, "{}: key \"{}\" is given twice", path, key);
    header.begin(fmt::format("{}: key \"{}\"", path, key));
    header.string(key);
    std::visit(
        [&](const auto& held) {
          header.number(kind_of<std::decay_t<decltype(held)>>());
          header.put(held);
        },
        value);
  }
  size_t end = 0;
  for (const GgufTensorSpec& spec : tensors) {
    const size_t size = size_of(spec, path);
    header.begin(fmt::format("{}: tensor \"{}\"", path, spec.name));
    header.string(spec.name);
    header.number(static_cast<uint32_t>(spec.shape.rank()));
    for (int i = spec.shape.rank() - 1; i >= 0; --i) header.number(static_cast<uint64_t>(spec.shape[i]));
    header.number(spec.type->id);
    header.number<uint64_t>(end);
    if (!places_.emplace(spec.name, Place{end, size, 0}).second) {
      fail(ErrorKind::kInput, "{}: tensor \"{}\" is given twice", path, spec.name);
    }
    end = (end + size + kAlignment - 1) / kAlignment * kAlignment;
  }
  header.pad();
  for (auto& [name, place] : places_) place.begin += header.bytes().size();
  file_ = std::make_unique<NewFile>(path, Rivals::kRefuse);
  file_->put(header.bytes().data(), header.bytes().size(), 0);
  // Readers of the format expect the padding after the last tensor too.
  const size_t total = header.bytes().size() + end;
  if (end > 0) file_->put("", 1, total - 1);
}

void GgufWriter::write(const std::string& name, const void* bytes, size_t size_bytes) {
  const auto it = places_.find(name);
  if (it == places_.end()) fail(ErrorKind::kInput, "{}: \"{}\" was not announced", path_, name);
  Place& place = it->second;
  if (size_bytes > place.size_bytes - place.written) {
    fail(ErrorKind::kInput, "{}: \"{}\" is written beyond its {} bytes", path_, name, place.size_bytes);
  }
  file_->put(bytes, size_bytes, place.begin + place.written);
  place.written += size_bytes;
}

void GgufWriter::finish() {
  for (const auto& [name, place] : places_) {
    if (place.written == place.size_bytes) continue;
    fail(ErrorKind::kInput, "{}: \"{}\" has {} bytes, {} were written", path_, name, place.size_bytes, place.written);
  }
  file_->finish();
}

}  // namespace carousel::formats
