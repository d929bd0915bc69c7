// SPDX-License-Identifier: Apache-2.0
// PyTorch's own checkpoint files (torch.save, Lightning's .ckpt): a zip archive of one pickle and raw storages. Tensors
// are handed out as views of the mapping; the pickle is read as values (pickle.h), no code is ever run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"

namespace carousel::formats {

struct TorchFile {
  /// The tensors of "state_dict", or of the top dict where there is none, in the order of the file.
  std::vector<TensorEntry> entries;
  Json hyper_parameters;  // Lightning's settings as plain JSON; null when absent
};

/// Throws Error(kIo), or Error(kInput) naming the file and the tensor: compressed members, bytes that are not those
/// of their checksums, big-endian files, unknown opcodes, globals and storage types, tensors outside their storage or
/// not contiguous.
TorchFile open_torch_zip(const std::string& path);
/// The same for a file in memory, which must outlive the result. `checks_sums` is ZipDirectory's.
TorchFile parse_torch_zip(std::span<const std::byte> bytes, const std::string& where, bool checks_sums = true);
/// Whether the file at `path` begins as such a file does. Throws Error(kIo).
bool is_torch_zip(const std::string& path);

}  // namespace carousel::formats
