// SPDX-License-Identifier: Apache-2.0
// The writing half of safetensors.h: a header laid out from the specs, then each tensor at its own place.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"

namespace carousel::formats {
namespace {

constexpr size_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kAlignment = 8;

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The rename would put a file in the place of a device, a pipe or a folder.
void check_replaceable(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    fail(ErrorKind::kIo, "{}: exists and is no regular file, expected one or none to write", path);
  }
}

// A new file beside `path`: on the same file system, so that the rename is atomic. The process id and a count keep two
// writers of one path apart.
int open_temporary(const std::string& path, std::string* temporary) {
  for (int attempt = 0;; ++attempt) {
    *temporary = fmt::format("{}.{}-{}.tmp", path, ::getpid(), attempt);
    const int fd = ::open(temporary->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return fd;
    if (errno != EEXIST || attempt == 1000) {
      fail(ErrorKind::kIo, "{}: cannot create: {}", *temporary, std::strerror(errno));
    }
  }
}

// The rename itself survives a power cut only once the folder is flushed. Some file systems cannot; that is no error.
void flush_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const int unsupported = ::fsync(fd);
  ::close(fd);
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& specs,
                                     const Metadata& metadata)
    : path_(path) {
  check_replaceable(path);
  const std::string header = lay_out(specs, metadata);
  fd_ = open_temporary(path, &temporary_);
  const auto length = static_cast<uint64_t>(header.size());
  put(&length, sizeof length, 0);
  put(header.data(), header.size(), sizeof length);
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

// Places the tensors, widest dtype first so that every one is aligned, and returns the padded header.
std::string SafetensorsWriter::lay_out(const std::vector<TensorSpec>& specs, const Metadata& metadata) {
  std::vector<TensorSpec> order = specs;
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorSpec& a, const TensorSpec& b) { return dtype_size(a.dtype) > dtype_size(b.dtype); });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t end = 0;
  // ordered_json looks a key up by walking all of them: repeated names are caught by places_, and entries appended.
  auto& members = header.get_ref<nlohmann::ordered_json::object_t&>();
  for (const TensorSpec& spec : order) {
    size_t size_bytes = 0;
    const auto count = static_cast<size_t>(spec.shape.count());
    if (__builtin_mul_overflow(count, dtype_size(spec.dtype), &size_bytes) ||
        __builtin_add_overflow(end, size_bytes, &end)) {
      fail(ErrorKind::kInput, "{}: \"{}\" of {} overflows the file's size", path_, spec.name, spec.shape.str());
    }
    if (spec.name == "__metadata__" || !places_.emplace(spec.name, Place{spec, end - size_bytes, size_bytes}).second) {
      fail(ErrorKind::kInput, "{}: tensor name \"{}\" is reserved or used twice", path_, spec.name);
    }
    std::vector<int64_t> dims;
    for (int i = 0; i < spec.shape.rank(); ++i) dims.push_back(spec.shape[i]);
    nlohmann::ordered_json entry{{"dtype", dtype_name(spec.dtype)}, {"shape", dims}};
    entry["data_offsets"] = {end - size_bytes, end};
    static_cast<std::vector<std::pair<const std::string, nlohmann::ordered_json>>&>(members).emplace_back(
        spec.name, std::move(entry));
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::kInput, "{}: a tensor name or metadata is not valid UTF-8", path_);
  }
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (text.size() > kMaxHeaderBytes) {
    fail(ErrorKind::kInput, "{}: header of {} bytes, expected at most {}", path_, text.size(), kMaxHeaderBytes);
  }
  for (auto& [name, place] : places_) place.offset_bytes += sizeof(uint64_t) + text.size();
  return text;
}

void SafetensorsWriter::put(const void* bytes, size_t size_bytes, size_t offset_bytes) {
  const auto* next = static_cast<const char*>(bytes);
  while (size_bytes > 0) {
    const ssize_t count = ::pwrite(fd_, next, size_bytes, static_cast<off_t>(offset_bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(ErrorKind::kIo, "{}: cannot write: {}", temporary_, std::strerror(count < 0 ? errno : ENOSPC));
    next += count;
    size_bytes -= static_cast<size_t>(count);
    offset_bytes += static_cast<size_t>(count);
  }
}

void SafetensorsWriter::write(const std::string& name, const Tensor& tensor) {
  const auto it = places_.find(name);
  if (it == places_.end()) fail(ErrorKind::kInput, "{}: \"{}\" was not announced", path_, name);
  Place& place = it->second;
  if (!(tensor.shape() == place.spec.shape) || tensor.dtype() != place.spec.dtype) {
    fail(ErrorKind::kShape, "{}: \"{}\" is {} {}, expected {} {}", path_, name, dtype_name(tensor.dtype()),
         tensor.shape().str(), dtype_name(place.spec.dtype), place.spec.shape.str());
  }
  if (place.written) fail(ErrorKind::kInput, "{}: \"{}\" is written twice", path_, name);
  if (place.size_bytes > 0 && tensor.raw() == nullptr) {
    fail(ErrorKind::kInput, "{}: \"{}\" holds no values to write", path_, name);
  }
  put(tensor.raw(), place.size_bytes, place.offset_bytes);
  place.written = true;
}

void SafetensorsWriter::finish() {
  for (const auto& [name, place] : places_) {
    if (!place.written) fail(ErrorKind::kInput, "{}: \"{}\" was not written", path_, name);
  }
  const bool flushed = ::fsync(fd_) == 0;
  const int flush_error = errno;
  const bool closed = ::close(fd_) == 0;
  fd_ = -1;
  if (!flushed || !closed) {
    fail(ErrorKind::kIo, "{}: cannot write: {}", temporary_, std::strerror(flushed ? errno : flush_error));
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail(ErrorKind::kIo, "{}: cannot rename from {}: {}", path_, temporary_, std::strerror(errno));
  }
  temporary_.clear();
  flush_folder(folder_of(path_));
}

void write_safetensors(const std::string& path, const NamedTensors& tensors, const Metadata& metadata) {
  std::vector<TensorSpec> specs;
  for (const NamedTensor& named : tensors) specs.push_back({named.name, named.tensor.dtype(), named.tensor.shape()});
  SafetensorsWriter writer(path, specs, metadata);
  for (const NamedTensor& named : tensors) writer.write(named.name, named.tensor);
  writer.finish();
}

}  // namespace carousel::formats
