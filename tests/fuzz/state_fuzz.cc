// SPDX-License-Identifier: Apache-2.0
// Any bytes as a saved state: refused by an Error, or a state of the size its position asks for. The first 8 bytes are
// the position; the rest is a safetensors file, once with its checksum checked as load_state does, and once without,
// because no mutation gets past a checksum.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/model/saved_state.h"

namespace {

// A small model with one state of each kind: matrix memory and pages.
const carousel::model::Model& model() {
  static const carousel::model::Model loaded = [] {
    std::string name = (std::filesystem::temp_directory_path() / "carousel-XXXXXX").string();
    const std::filesystem::path folder = ::mkdtemp(name.data());
    std::ofstream(folder / "config.json")
        << R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 2,
               "layer_types": ["mlstm", "full_attention"], "mlstm_config": {"num_heads": 2},
               "attention_config": {"num_heads": 2, "num_kv_heads": 1}})";
    static carousel::ThreadPool pool(1);
    const carousel::Stream stream{&carousel::Memory::host(), carousel::Isa::kPortable, &pool};
    carousel::model::write_initialised(folder / "config.json", 1, carousel::DType::kF32, folder / "model");
    carousel::model::Model result = carousel::model::load(folder / "model", stream);
    std::filesystem::remove_all(folder);
    return result;
  }();
  return loaded;
}

void load_whole(std::span<const std::byte> file) {
  static const int fd = ::memfd_create("state", 0);
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, file.data(), file.size(), 0) != static_cast<ssize_t>(file.size())) {
    std::abort();
  }
  try {
    carousel::model::load_state("/proc/self/fd/" + std::to_string(fd), model());
  } catch (const carousel::Error&) {
  }
}

void load_tensors(std::span<const std::byte> file, int64_t pos) {
  const carousel::StateLayout& layout = model().lm->state_layout();
  try {
    const auto tensors = carousel::formats::SafetensorsFile::parse(file, "fuzz").load_all();
    const carousel::State state = carousel::State::from(tensors, pos, layout);
    if (state.pos() != pos || state.bytes() != layout.bytes_at(pos)) std::abort();
  } catch (const carousel::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  int64_t pos = 0;
  if (size < sizeof pos) return 0;
  std::memcpy(&pos, bytes, sizeof pos);
  const std::vector<uint8_t> copy(bytes + sizeof pos, bytes + size);
  load_whole(std::as_bytes(std::span(copy)));
  load_tensors(std::as_bytes(std::span(copy)), pos);
  return 0;
}
