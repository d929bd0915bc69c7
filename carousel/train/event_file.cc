// SPDX-License-Identifier: Apache-2.0
// The few messages of TensorBoard's protocol buffers that numbers need, written field by field.
#include "carousel/train/event_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <optional>

namespace carousel::train {
namespace {

// Keys of fields: number << 3 | wire type (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes).
constexpr char kWallTime = 1 << 3 | 1;     // Event.wall_time, double
constexpr char kStep = 2 << 3 | 0;         // Event.step, int64
constexpr char kFileVersion = 3 << 3 | 2;  // Event.file_version, string
constexpr char kSummary = 5 << 3 | 2;      // Event.summary, Summary
constexpr char kValue = 1 << 3 | 2;        // Summary.value, Summary.Value, repeated
constexpr char kTag = 1 << 3 | 2;          // Summary.Value.tag, string
constexpr char kSimpleValue = 2 << 3 | 5;  // Summary.Value.simple_value, float

constexpr size_t kLengthBytes = 8, kCrcBytes = 4;

std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0);
    table[i] = crc;
  }
  return table;
}

template <class T>
std::string little_endian(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

template <class T>
T number_at(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

std::string with_length(char key, std::string_view bytes) { return key + varint(bytes.size()) + std::string(bytes); }

uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

std::string record_of(const std::string& message) {
  const std::string length = little_endian(static_cast<uint64_t>(message.size()));
  return length + little_endian(masked_crc(length)) + message + little_endian(masked_crc(message));
}

/// The varint at `at`, which moves behind it; nothing where the message ends first.
std::optional<uint64_t> take_varint(std::string_view message, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && at < message.size(); shift += 7) {
    const auto byte = static_cast<unsigned char>(message[at++]);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

/// Event.step of a message as it is written here: the wall time, then the step unless it is 0.
int64_t step_of(std::string_view message) {
  size_t at = 1 + sizeof(double);
  if (message.size() <= at || message[0] != kWallTime || message[at] != kStep) return 0;
  return static_cast<int64_t>(take_varint(message, ++at).value_or(0));
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> kTable = make_crc_table();
  uint32_t crc = ~0u;
  for (const char byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  return ~crc;
}

std::string first_event(double wall_time) {
  return record_of(kWallTime + little_endian(wall_time) + with_length(kFileVersion, "brain.Event:2"));
}

std::string event_of(int64_t step, double wall_time, std::span<const Measure> measures) {
  std::string summary;
  for (const Measure& measure : measures) {
    const std::string value = little_endian(static_cast<float>(measure.value));
    summary += with_length(kValue, with_length(kTag, measure.name) + kSimpleValue + value);
  }
  std::string event = kWallTime + little_endian(wall_time);
  if (step != 0) event += kStep + varint(static_cast<uint64_t>(step));
  return record_of(event + with_length(kSummary, summary));
}

size_t events_until(std::string_view file, int64_t step) {
  size_t at = 0;
  for (;;) {
    const std::string_view rest = file.substr(at);
    if (rest.size() < kLengthBytes + kCrcBytes) return at;
    const auto length = number_at<uint64_t>(rest, 0);
    if (number_at<uint32_t>(rest, kLengthBytes) != masked_crc(rest.substr(0, kLengthBytes))) return at;
    const size_t begin = kLengthBytes + kCrcBytes;
    if (length > rest.size() - begin || rest.size() - begin - length < kCrcBytes) return at;
    const std::string_view message = rest.substr(begin, length);
    if (number_at<uint32_t>(rest, begin + length) != masked_crc(message) || step_of(message) > step) return at;
    at += begin + length + kCrcBytes;
  }
}

}  // namespace carousel::train
