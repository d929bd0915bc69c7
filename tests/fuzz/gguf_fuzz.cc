// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF file: refused by an Error, or every byte of every tensor and array can be read, its keys are a
// config whose parameters can be counted or are refused, and its tokenizer round-trips ids.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/gguf.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/load.h"
#include "carousel/text/tokenizer.h"

namespace {

using carousel::formats::GgufFile;

template <class Act>
void attempt(Act&& act) {
  try {
    act();
  } catch (const carousel::Error&) {
  }
}

void read_arrays(const GgufFile& file) {
  for (const auto& [key, array] : file.metadata().arrays) {
    attempt([&a = array] { static_cast<void>(a.strings()); });
    attempt([&a = array] { static_cast<void>(a.integers()); });
    attempt([&a = array] { static_cast<void>(a.numbers()); });
  }
}

void read_tensors(const GgufFile& file, size_t size) {
  size_t total = 0;
  for (const carousel::formats::TensorEntry& entry : file.entries()) {
    total += entry.size_bytes;
    if (entry.shape.count() > 1 << 20) continue;
    attempt([&] { static_cast<void>(entry.load()); });
    static_cast<void>(entry.first_not_finite());
  }
  if (total > size) std::abort();
}

void use_tokenizer(const GgufFile& file) {
  attempt([&] {
    const std::string json = carousel::model::gguf_tokenizer(file.metadata(), "fuzz");
    if (json.empty()) return;
    const auto tokenizer = carousel::text::Tokenizer::from_json(json, "fuzz");
    for (const int32_t id : tokenizer.encode("Once upon a time, 12 \xE2\x96\x81 <s>\n")) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
  });
}

void read_config(std::span<const std::byte> bytes) {
  static const int fd = ::memfd_create("model", 0);
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    std::abort();
  }
  attempt([] {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    const auto checkpoint = carousel::formats::Checkpoint::open(path);
    const auto config = carousel::model::read_model_config({"", path, path}, &checkpoint);
    if (config.num_layers > 64) return;  // counting only costs time
    if (carousel::model::measure(config, "fuzz").parameters < 0) std::abort();
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::vector<uint8_t> copy(bytes, bytes + size);  // so that reading past the end is seen
  attempt([&] {
    const GgufFile file = GgufFile::parse(std::as_bytes(std::span(copy)), "fuzz");
    read_arrays(file);
    read_tensors(file, size);
    use_tokenizer(file);
    read_config(std::as_bytes(std::span(copy)));
  });
  return 0;
}
