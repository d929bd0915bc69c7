// SPDX-License-Identifier: Apache-2.0
// Reads a zip archive's directory, and checks the CRC-32 of members.
#include "carousel/formats/zip.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

constexpr size_t kLocalHeader = 30, kCentralHeader = 46, kEndRecord = 22, kLocator64 = 20, kEndRecord64 = 56;
constexpr size_t kLocalMark = 0x04034b50, kCentralMark = 0x02014b50, kEndMark = 0x06054b50;
constexpr size_t kLocatorMark64 = 0x07064b50, kEndMark64 = 0x06064b50;
constexpr size_t kMaxComment = 65535;
constexpr size_t kFull32 = 0xFFFFFFFF;  // "see the zip64 field"
constexpr size_t kExtra64 = 1;
constexpr size_t kShownName = 80;
constexpr size_t kSummedBytes = size_t{8} << 20;  // between two calls of Done

// tables[i][b]: the sum of byte b with i zero bytes behind it, so that eight bytes take eight look-ups at once.
using CrcTables = std::array<std::array<uint32_t, 256>, 8>;
constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t sum = byte;
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0xEDB88320u : 0);
    tables[0][byte] = sum;
  }
  for (size_t i = 1; i < 8; ++i) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = tables[i - 1][byte];
      tables[i][byte] = (before >> 8) ^ tables[0][before & 255];
    }
  }
  return tables;
}
constexpr CrcTables kCrc = make_crc_tables();

}  // namespace

uint32_t crc32(uint32_t so_far, std::span<const std::byte> bytes) {
  uint32_t sum = ~so_far;
  const auto at = [&](size_t i) { return static_cast<uint32_t>(bytes[i]); };
  size_t i = 0;
  for (; bytes.size() - i >= 8; i += 8) {
    const uint32_t low = sum ^ (at(i) | at(i + 1) << 8 | at(i + 2) << 16 | at(i + 3) << 24);
    sum = kCrc[7][low & 255] ^ kCrc[6][low >> 8 & 255] ^ kCrc[5][low >> 16 & 255] ^ kCrc[4][low >> 24] ^
          kCrc[3][at(i + 4)] ^ kCrc[2][at(i + 5)] ^ kCrc[1][at(i + 6)] ^ kCrc[0][at(i + 7)];
  }
  for (; i < bytes.size(); ++i) sum = (sum >> 8) ^ kCrc[0][(sum ^ at(i)) & 255];
  return ~sum;
}

bool looks_like_zip(std::span<const std::byte> bytes) {
  return bytes.size() >= 4 && std::memcmp(bytes.data(), "PK\x03\x04", 4) == 0;
}

// Little-endian; the caller has checked that it lies in the file.
size_t ZipDirectory::number(size_t at, size_t size_bytes) const {
  CAROUSEL_ASSERT(size_bytes <= bytes_.size() && at <= bytes_.size() - size_bytes);
  size_t value = 0;
  for (size_t i = size_bytes; i-- > 0;) value = value << 8 | static_cast<size_t>(bytes_[at + i]);
  return value;
}

ZipDirectory::ZipDirectory(std::span<const std::byte> bytes, const std::string& where, bool checks_sums)
    : bytes_(bytes), where_(where), checks_sums_(checks_sums) {
  const Extent extent = find_directory();
  if (extent.offset > bytes_.size() || extent.size_bytes > bytes_.size() - extent.offset) {
    fail(ErrorKind::kInput, "{}: the zip directory of {} bytes at {} lies beyond the {} bytes of the file", where_,
         extent.size_bytes, extent.offset, bytes_.size());
  }
  if (extent.count > extent.size_bytes / kCentralHeader) {
    fail(ErrorKind::kInput, "{}: the zip directory of {} bytes cannot hold {} members", where_, extent.size_bytes,
         extent.count);
  }
  const size_t end = extent.offset + extent.size_bytes;
  size_t at = extent.offset;
  for (size_t i = 0; i < extent.count; ++i) at = read_member(at, end);
  std::sort(members_.begin(), members_.end(), [](const ZipMember& a, const ZipMember& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(members_.begin(), members_.end(),
                                        [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice != members_.end()) {
    fail(ErrorKind::kInput, "{}: \"{}\" is twice in the zip directory", where_, twice->name.substr(0, kShownName));
  }
}

// The end record is the last thing in the file but for a comment.
ZipDirectory::Extent ZipDirectory::find_directory() const {
  if (bytes_.size() >= kEndRecord) {
    const size_t last = bytes_.size() - kEndRecord;
    for (size_t back = 0; back <= std::min(last, kMaxComment); ++back) {
      const size_t at = last - back;
      if (number(at, 4) != kEndMark || number(at + 20, 2) != back) continue;
      const Extent extent{number(at + 16, 4), number(at + 12, 4), number(at + 10, 2)};
      const bool has64 = at >= kLocator64 && number(at - kLocator64, 4) == kLocatorMark64;
      return has64 ? find_directory64(at - kLocator64) : extent;
    }
  }
  fail(ErrorKind::kInput, "{}: no zip end record: the file is truncated or no zip archive", where_);
}

ZipDirectory::Extent ZipDirectory::find_directory64(size_t locator) const {
  const size_t at = number(locator + 8, 8);
  if (locator < kEndRecord64 || at > locator - kEndRecord64 || number(at, 4) != kEndMark64) {
    fail(ErrorKind::kInput, "{}: no zip64 end record at {}", where_, at);
  }
  return {number(at + 48, 8), number(at + 40, 8), number(at + 32, 8)};
}

// One directory entry at `at`; returns where the next one begins.
size_t ZipDirectory::read_member(size_t at, size_t end) {
  const auto broken = [&] {
    fail(ErrorKind::kInput, "{}: zip directory entry {} is damaged", where_, members_.size());
  };
  if (end - at < kCentralHeader || number(at, 4) != kCentralMark) broken();
  const size_t name_bytes = number(at + 28, 2), extra_bytes = number(at + 30, 2), comment_bytes = number(at + 32, 2);
  const size_t name_at = at + kCentralHeader;
  if (end - name_at < name_bytes + extra_bytes + comment_bytes) broken();
  ZipMember member;
  member.name.assign(reinterpret_cast<const char*>(bytes_.data() + name_at), name_bytes);
  member.encrypted = (number(at + 8, 2) & 1) != 0;
  member.method = static_cast<unsigned>(number(at + 10, 2));
  member.crc = static_cast<uint32_t>(number(at + 16, 4));
  member.packed_bytes = number(at + 20, 4);
  member.size_bytes = number(at + 24, 4);
  member.header_offset = number(at + 42, 4);
  const size_t extra_end = name_at + name_bytes + extra_bytes;
  for (size_t field = name_at + name_bytes; extra_end - field >= 4;) {
    const size_t id = number(field, 2), size = number(field + 2, 2);
    size_t value = field + 4;
    if (size > extra_end - value) broken();
    field = value + size;
    if (id != kExtra64) continue;
    for (size_t* full : {&member.size_bytes, &member.packed_bytes, &member.header_offset}) {
      if (*full != kFull32) continue;
      if (field - value < 8) broken();
      *full = number(value, 8);
      value += 8;
    }
  }
  members_.push_back(std::move(member));
  return extra_end + comment_bytes;
}

const ZipMember* ZipDirectory::find(std::string_view name) const {
  const auto it = std::lower_bound(members_.begin(), members_.end(), name,
                                   [](const ZipMember& member, std::string_view key) { return member.name < key; });
  return it == members_.end() || it->name != name ? nullptr : &*it;
}

std::span<const std::byte> ZipDirectory::read(const ZipMember& member, const Done& done) {
  const std::string name = member.name.substr(0, kShownName);
  if (member.encrypted) fail(ErrorKind::kInput, "{}: \"{}\" is encrypted", where_, name);
  if (member.method != 0 || member.packed_bytes != member.size_bytes) {
    fail(ErrorKind::kInput, "{}: \"{}\" is compressed (zip method {}), expected stored bytes", where_, name,
         member.method);
  }
  const size_t at = member.header_offset;
  if (bytes_.size() < kLocalHeader || at > bytes_.size() - kLocalHeader || number(at, 4) != kLocalMark) {
    fail(ErrorKind::kInput, "{}: \"{}\" has no zip header at {}", where_, name, at);
  }
  const size_t begin = at + kLocalHeader + number(at + 26, 2) + number(at + 28, 2);
  if (begin > bytes_.size() || member.size_bytes > bytes_.size() - begin) {
    fail(ErrorKind::kInput, "{}: \"{}\" of {} bytes at {} ends beyond the {} bytes of the file", where_, name,
         member.size_bytes, begin, bytes_.size());
  }
  const std::span<const std::byte> bytes = bytes_.subspan(begin, member.size_bytes);
  if (!checks_sums_ || member.crc == 0 || verified_.contains(at)) return bytes;
  uint32_t sum = 0;
  for (size_t first = 0; first < bytes.size(); first += kSummedBytes) {
    const std::span<const std::byte> piece = bytes.subspan(first, std::min(kSummedBytes, bytes.size() - first));
    sum = crc32(sum, piece);
    if (done) done(piece);
  }
  if (sum != member.crc) {
    fail(ErrorKind::kInput, "{}: \"{}\" has the checksum {:08x}, expected {:08x}: its bytes are damaged", where_, name,
         sum, member.crc);
  }
  verified_.insert(at);
  return bytes;
}

}  // namespace carousel::formats
