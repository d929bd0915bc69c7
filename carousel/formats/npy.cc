// SPDX-License-Identifier: Apache-2.0
// Reads and writes numpy's .npy: the header, a Python dict, and the elements.
#include "carousel/formats/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/mapped_file.h"

namespace carousel::formats {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kMaxHeaderBytes = 1 << 16;
constexpr size_t kMaxDigits = 15;

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;
};

/// Reads the dict literal left to right; anything but the three keys is refused.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Header read() {
    Header header;
    bool seen[3] = {};
    expect('{');
    while (!take('}')) {
      const std::string key = quoted();
      expect(':');
      const int index = key == "descr" ? 0 : key == "fortran_order" ? 1 : key == "shape" ? 2 : -1;
      if (index < 0 || seen[index]) wrong("the key \"" + key.substr(0, 32) + "\" once of descr, fortran_order, shape");
      seen[index] = true;
      if (index == 0) header.descr = quoted();
      if (index == 1) header.fortran_order = boolean();
      if (index == 2) header.shape = tuple();
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (at_ != text_.size()) wrong("the end");
    if (!seen[0] || !seen[1] || !seen[2]) wrong("descr, fortran_order and shape");
    return header;
  }

 private:
  [[noreturn]] void wrong(const std::string& expected) const {
    fail(ErrorKind::kInput, "{}: header: byte {}: expected {}", where_, at_, expected);
  }
  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) wrong(fmt::format("'{}'", c));
  }
  std::string quoted() {
    skip_spaces();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') wrong("a quoted string");
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) wrong("a closing quote");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_spaces();
    for (const std::string_view word : {"True", "False"}) {
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return word == "True";
    }
    wrong("True or False");
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> dims;
    expect('(');
    while (!take(')')) {
      skip_spaces();
      const size_t end = std::min(text_.find_first_not_of("0123456789", at_), text_.size());
      if (end == at_ || end - at_ > kMaxDigits) wrong("a dimension");
      dims.push_back(std::stoll(std::string(text_.substr(at_, end - at_))));
      at_ = end;
      if (dims.size() > Shape::kMaxRank) wrong(fmt::format("at most {} dimensions", Shape::kMaxRank));
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return dims;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

template <class T>
float element(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return static_cast<float>(value);
}
float half(const std::byte* bytes) {
  F16 value;
  std::memcpy(&value, bytes, sizeof value);
  return to_float(value);
}

struct ElementType {
  std::string_view descr;
  size_t size_bytes;
  float (*read)(const std::byte*);
};
constexpr ElementType kTypes[] = {
    {"<f4", 4, element<float>},    {"<f8", 8, element<double>},   {"<f2", 2, half},
    {"|b1", 1, element<uint8_t>},  {"|u1", 1, element<uint8_t>},  {"|i1", 1, element<int8_t>},
    {"<u2", 2, element<uint16_t>}, {"<i2", 2, element<int16_t>},  {"<u4", 4, element<uint32_t>},
    {"<i4", 4, element<int32_t>},  {"<u8", 8, element<uint64_t>}, {"<i8", 8, element<int64_t>},
};

const ElementType& find_type(const std::string& descr, const std::string& where) {
  for (const ElementType& type : kTypes) {
    if (type.descr == descr) return type;
  }
  fail(ErrorKind::kInput, "{}: holds elements of type \"{}\", expected little-endian numbers (\"<f4\", \"<f8\", ...)",
       where, descr.substr(0, 32));
}

/// Fills in the elements; those of a column-major file are moved to their row-major places.
void fill(Tensor& out, const std::byte* bytes, const ElementType& type, bool fortran_order) {
  const Shape& shape = out.shape();
  std::vector<int64_t> index(static_cast<size_t>(shape.rank()));
  for (int64_t i = 0; i < out.count(); ++i) {
    int64_t to = i;
    if (fortran_order) {
      to = 0;
      for (int d = 0; d < shape.rank(); ++d) to = to * shape[d] + index[static_cast<size_t>(d)];
      for (int d = 0; d < shape.rank() && ++index[static_cast<size_t>(d)] == shape[d]; ++d) {
        index[static_cast<size_t>(d)] = 0;
      }
    }
    out.f32()[to] = type.read(bytes + static_cast<size_t>(i) * type.size_bytes);
  }
}

/// Number of elements, or -1 where the dimensions that are not zero multiply beyond what any file holds.
int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) {
    if (__builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count)) return -1;
  }
  return std::count(shape.begin(), shape.end(), 0) > 0 ? 0 : count;
}

}  // namespace

NpyArray view_npy(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.size() < 10 || text.substr(0, kMagic.size()) != kMagic) {
    fail(ErrorKind::kInput, "{}: does not begin with \\x93NUMPY, expected a .npy file", where);
  }
  const auto byte_at = [&](size_t i) { return static_cast<size_t>(bytes[i]); };
  const size_t version = byte_at(6);
  if (version < 1 || version > 3) fail(ErrorKind::kInput, "{}: .npy version {}, expected 1 to 3", where, version);
  const size_t prefix = version == 1 ? 10 : 12;
  size_t length = byte_at(8) | byte_at(9) << 8;
  if (version > 1 && bytes.size() >= prefix) length |= byte_at(10) << 16 | byte_at(11) << 24;
  if (bytes.size() < prefix || length > bytes.size() - prefix) {
    fail(ErrorKind::kInput, "{}: the header says {} bytes after the first {}, the file has {} in all: it is cut short",
         where, length, prefix, bytes.size());
  }
  if (length > kMaxHeaderBytes) {
    fail(ErrorKind::kInput, "{}: a header of {} bytes, expected at most {}", where, length, kMaxHeaderBytes);
  }
  Header header = HeaderReader(text.substr(prefix, length), where).read();
  const ElementType& type = find_type(header.descr, where);
  const size_t held = bytes.size() - prefix - length;
  int64_t expected = element_count(header.shape);
  if (expected >= 0 && __builtin_mul_overflow(expected, static_cast<int64_t>(type.size_bytes), &expected))
    expected = -1;
  if (expected < 0 || static_cast<uint64_t>(expected) != held) {
    fail(ErrorKind::kInput, "{}: {} bytes of elements, expected {} for shape {} of \"{}\"{}", where, held,
         expected < 0 ? "more than 2^63" : std::to_string(expected), Shape(header.shape).str(), type.descr,
         expected < 0 || static_cast<uint64_t>(expected) > held ? ": the file is cut short, or its header is wrong"
                                                                : "");
  }
  return {header.descr, type.size_bytes, header.fortran_order, std::move(header.shape), bytes.subspan(prefix + length)};
}

Tensor parse_npy(std::span<const std::byte> bytes, const std::string& where) {
  const NpyArray array = view_npy(bytes, where);
  Tensor out(array.shape.empty() ? Shape{1} : Shape(array.shape), DType::kF32);
  fill(out, array.elements.data(), find_type(array.descr, where), array.fortran_order);
  return out;
}

Tensor read_npy(const std::string& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  return parse_npy(file->bytes(), path);
}

void write_npy(const std::string& path, const Tensor& values) {
  std::string shape;
  for (int i = 0; i < values.shape().rank(); ++i) shape += fmt::format("{}, ", values.dim(i));
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", shape);
  // Elements begin at a multiple of 64.
  constexpr size_t kPrefix = 10, kAlignment = 64;
  header.append((kAlignment - (kPrefix + header.size() + 1) % kAlignment) % kAlignment, ' ');
  header += '\n';
  std::string text(kMagic);
  text += {'\x01', '\x00', static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  text += header;
  if (values.count() > 0) text.append(reinterpret_cast<const char*>(values.f32()), values.size_bytes());
  write_text_file(path, text);
}

}  // namespace carousel::formats
