// SPDX-License-Identifier: Apache-2.0
// The directory of a zip archive, for archives whose members are stored as they are (PyTorch's): names to byte ranges
// of the mapping. Zip64 included; compression and encryption are refused where such a member is asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::formats {

struct ZipMember {
  std::string name;
  size_t header_offset = 0;  // offset of its local header
  size_t size_bytes = 0;     // uncompressed
  size_t packed_bytes = 0;   // bytes in the file
  unsigned method = 0;       // 0: stored
  uint32_t crc = 0;          // CRC-32 of its bytes; 0 where the writer computed none, which torch.save can be told
  bool encrypted = false;
};

class ZipDirectory {
 public:
  /// Throws Error(kInput) naming `where`: no end record, offsets outside the file, a name twice. `bytes` must outlive
  /// the directory and the members it hands out. `checks_sums` is false for fuzzing, whose changes break every sum.
  ZipDirectory(std::span<const std::byte> bytes, const std::string& where, bool checks_sums = true);

  const std::vector<ZipMember>& members() const { return members_; }  // sorted by name
  const ZipMember* find(std::string_view name) const;                 // nullptr: no such member
  /// The member's bytes; its checksum is verified the first time. Throws Error(kInput) for a compressed or encrypted
  /// one, for a header that does not match and for bytes that do not match the checksum. `done`, if any, is called with
  /// each piece of the bytes once it is summed, so that a mapping can release it.
  using Done = std::function<void(std::span<const std::byte>)>;
  std::span<const std::byte> read(const ZipMember& member, const Done& done = {});

 private:
  struct Extent {
    size_t offset = 0, size_bytes = 0, count = 0;
  };
  Extent find_directory() const;
  Extent find_directory64(size_t locator) const;
  size_t read_member(size_t at, size_t end);
  size_t number(size_t at, size_t size_bytes) const;

  std::span<const std::byte> bytes_;
  std::string where_;
  bool checks_sums_;
  std::vector<ZipMember> members_;
  std::set<size_t> verified_;  // header offsets
};

/// CRC-32 (polynomial of IEEE 802.3, as in zip) of a stream continued by `bytes`; so_far is 0 at its start.
uint32_t crc32(uint32_t so_far, std::span<const std::byte> bytes);

/// Whether the bytes begin as a zip archive does.
bool looks_like_zip(std::span<const std::byte> bytes);

}  // namespace carousel::formats
