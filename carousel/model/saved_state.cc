// SPDX-License-Identifier: Apache-2.0
// Saved states: the tensors, their checksum, and the checks of a file before anything of it is used.
#include "carousel/model/saved_state.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/finite.h"
#include "carousel/formats/safetensors.h"

namespace carousel::model {
namespace {

constexpr const char* kFormat = "carousel.state";
constexpr const char* kVersion = "1";
constexpr const char* kTokens = "tokens";
constexpr const char* kLogits = "logits";
constexpr const char* kStatePrefix = "state.";

// Of everything that is read back: names, dtypes, shapes, bytes, model and position.
std::string checksum(const NamedTensors& tensors, const std::string& fingerprint, const std::string& pos) {
  XXH3_state_t* hash = XXH3_createState();
  XXH3_64bits_reset(hash);
  const std::string header = fingerprint + " " + pos;
  XXH3_64bits_update(hash, header.data(), header.size());
  for (const NamedTensor& named : tensors) {
    const std::string line =
        fmt::format("{} {} {}", named.name, dtype_name(named.tensor.dtype()), named.tensor.shape().str());
    XXH3_64bits_update(hash, line.data(), line.size());
    if (named.tensor.size_bytes() > 0) XXH3_64bits_update(hash, named.tensor.raw(), named.tensor.size_bytes());
  }
  const uint64_t digest = XXH3_64bits_digest(hash);
  XXH3_freeState(hash);
  return fmt::format("{:016x}", digest);
}

std::string metadata_value(const formats::Metadata& metadata, const char* key, const std::string& path) {
  const auto it = metadata.find(key);
  if (it == metadata.end()) fail(ErrorKind::kState, "{}: not a saved state: metadata \"{}\" is missing", path, key);
  return it->second;
}

int64_t parse_position(const std::string& text, const std::string& path) {
  const bool digits = !text.empty() && text.size() <= 18 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits) fail(ErrorKind::kState, "{}: position is \"{}\", expected a number", path, text);
  return std::stoll(text);
}

void check_header(const formats::Metadata& metadata, const Model& model, const std::string& path) {
  const std::string format = metadata_value(metadata, "format", path);
  const std::string version = metadata_value(metadata, "version", path);
  if (format != kFormat || version != kVersion) {
    fail(ErrorKind::kState, "{}: format is \"{}\" version \"{}\", expected \"{}\" version \"{}\"", path, format,
         version, kFormat, kVersion);
  }
  const std::string fingerprint = metadata_value(metadata, "model", path);
  if (fingerprint != model.fingerprint) {
    fail(ErrorKind::kState, "{}: state of another model (fingerprint {}, expected {})", path, fingerprint,
         model.fingerprint);
  }
}

std::vector<int32_t> checked_tokens(const Tensor& tensor, int64_t pos, int64_t vocab_size, const std::string& path) {
  if (tensor.dtype() != DType::kI32 || tensor.shape().rank() != 1 || tensor.dim(0) != pos) {
    fail(ErrorKind::kState, "{}: \"{}\" is {} {}, expected I32 [{}]", path, kTokens, dtype_name(tensor.dtype()),
         tensor.shape().str(), pos);
  }
  std::vector<int32_t> tokens(tensor.i32(), tensor.i32() + pos);
  for (const int32_t token : tokens) {
    if (token < 0 || token >= vocab_size) {
      fail(ErrorKind::kState, "{}: token {} is outside the vocabulary of {}", path, token, vocab_size);
    }
  }
  return tokens;
}

Tensor checked_logits(const Tensor& tensor, int64_t vocab_size, const std::string& path) {
  if (tensor.dtype() != DType::kF32 || !(tensor.shape() == Shape{vocab_size})) {
    fail(ErrorKind::kState, "{}: \"{}\" is {} {}, expected F32 [{}]", path, kLogits, dtype_name(tensor.dtype()),
         tensor.shape().str(), vocab_size);
  }
  if (const auto found = first_not_finite(tensor.raw(), tensor.dtype(), vocab_size)) {
    fail(ErrorKind::kState, "{}: \"{}\" is not finite at {}", path, kLogits, *found);
  }
  return tensor;
}

}  // namespace

void save_state(const std::string& path, const SavedState& saved, const Model& model) {
  const bool language = model.lm != nullptr;
  CAROUSEL_ASSERT(static_cast<int64_t>(saved.tokens.size()) == (language ? saved.state.pos() : 0));
  NamedTensors tensors;
  for (NamedTensor& named : saved.state.tensors(model.state_layout())) {
    tensors.push_back({kStatePrefix + named.name, named.tensor});
  }
  if (language) {
    Tensor tokens(Shape{saved.state.pos()}, DType::kI32);
    std::copy(saved.tokens.begin(), saved.tokens.end(), tokens.i32());
    tensors.push_back({kTokens, tokens});
  }
  if (saved.logits.defined()) tensors.push_back({kLogits, saved.logits});
  const std::string pos = std::to_string(saved.state.pos());
  // The checksum covers the tensors in the order a reader meets them.
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  if (is_null_device(path)) return;
  formats::write_safetensors(link_target(path), tensors,
                             {{"format", kFormat},
                              {"version", kVersion},
                              {"model", model.fingerprint},
                              {"pos", pos},
                              {"checksum", checksum(tensors, model.fingerprint, pos)}});
}

bool looks_like_state(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string beginning(4096, '\0');  // the metadata come first in a header
  stream.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  // A text may speak of states, too: those begin with 64 bits, the length of a header, a small number.
  if (beginning.compare(4, 5, std::string_view("\0\0\0\0{", 5)) != 0) return false;
  return beginning.find(fmt::format("\"{}\"", kFormat)) != std::string::npos;
}

SavedState load_state(const std::string& path, const Model& model) {
  const formats::SafetensorsFile file = formats::SafetensorsFile::open(path);
  check_header(file.metadata(), model, path);
  NamedTensors tensors = file.load_all();
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const std::string pos_text = metadata_value(file.metadata(), "pos", path);
  const std::string expected = metadata_value(file.metadata(), "checksum", path);
  const std::string got = checksum(tensors, model.fingerprint, pos_text);
  if (got != expected)
    fail(ErrorKind::kState, "{}: checksum is {}, expected {}: the file was altered", path, got, expected);

  const int64_t pos = parse_position(pos_text, path);
  const bool language = model.lm != nullptr;
  const int64_t vocab_size = language ? model.lm->vocab_size() : 0;
  SavedState saved;
  NamedTensors state;
  bool has_tokens = false;
  for (NamedTensor& named : tensors) {
    if (language && named.name == kTokens) {
      saved.tokens = checked_tokens(named.tensor, pos, vocab_size, path);
      has_tokens = true;
    } else if (language && named.name == kLogits) {
      saved.logits = checked_logits(named.tensor, vocab_size, path);
    } else if (named.name.starts_with(kStatePrefix)) {
      state.push_back({named.name.substr(std::string(kStatePrefix).size()), named.tensor});
    } else {
      fail(ErrorKind::kState, "{}: tensor \"{}\" does not belong to a state", path, named.name);
    }
  }
  if (language && !has_tokens) fail(ErrorKind::kState, "{}: tensor \"{}\" is missing", path, kTokens);
  saved.state = State::from(state, pos, model.state_layout());
  return saved;
}

}  // namespace carousel::model
