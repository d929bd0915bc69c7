// SPDX-License-Identifier: Apache-2.0
#include "carousel/formats/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <span>
#include <vector>

#include "carousel/core/error.h"
#include "tests/scratch.h"

namespace carousel::formats {
namespace {

std::string file(const std::string& header, const std::string& elements, char version = 1) {
  std::string text = "\x93NUMPY";
  text += {version, '\0', static_cast<char>(header.size() & 0xFF), static_cast<char>(header.size() >> 8)};
  if (version > 1) text += std::string(2, '\0');
  return text + header + elements;
}

std::string header(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

template <class T>
std::string elements(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

Tensor parse(const std::string& text) { return parse_npy(std::as_bytes(std::span(text)), "x.npy"); }

std::vector<float> values_of(const Tensor& tensor) { return {tensor.f32(), tensor.f32() + tensor.count()}; }

std::string refusal(const std::string& text) {
  try {
    parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_EQ(std::string(error.what()).rfind("x.npy: ", 0), 0u) << error.what();
    return error.what();
  }
  return "accepted";
}

TEST(Npy, ReadsNumbersOfEveryKind) {
  const std::vector<float> expected{1, 2, 3, 4};
  const std::string shape = "(2, 2)";
  EXPECT_EQ(values_of(parse(file(header("<f4", shape), elements<float>({1, 2, 3, 4})))), expected);
  EXPECT_EQ(values_of(parse(file(header("<f8", shape), elements<double>({1, 2, 3, 4}), 2))), expected);
  EXPECT_EQ(values_of(parse(file(header("<i8", shape), elements<int64_t>({1, 2, 3, 4}), 3))), expected);
  EXPECT_EQ(values_of(parse(file(header("|u1", shape), elements<uint8_t>({1, 2, 3, 4})))), expected);
  EXPECT_EQ(values_of(parse(file(header("<f2", "(1,)"), elements<uint16_t>({0x3C00})))), std::vector<float>{1});
  EXPECT_EQ(parse(file(header("<f4", "(0, 3)"), "")).shape(), (Shape{0, 3}));
  EXPECT_EQ(parse(file(header("<f4", "()"), elements<float>({5}))).shape(), (Shape{1}));
}

TEST(Npy, FortranOrderIsTurned) {
  const Tensor turned = parse(file(header("<f4", "(2, 3)", "True"), elements<float>({1, 4, 2, 5, 3, 6})));
  EXPECT_EQ(values_of(turned), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(Npy, WrittenIsReadBack) {
  const Scratch scratch;
  const std::string path = scratch / "x.npy";
  for (const Shape& shape : {Shape{5}, Shape{2, 3}, Shape{2, 0, 4}, Shape{3, 2, 2}}) {
    Tensor values(shape, DType::kF32);
    for (int64_t i = 0; i < values.count(); ++i) values.f32()[i] = static_cast<float>(i) / 3;
    write_npy(path, values);
    EXPECT_EQ(read_npy(path).shape(), shape);
    EXPECT_EQ(values_of(read_npy(path)), values_of(values));
  }
}

TEST(Npy, MalformedFilesAreRefused) {
  const std::string one = elements<float>({1});
  EXPECT_NE(refusal("").find("expected a .npy file"), std::string::npos);
  EXPECT_NE(refusal("PK\x03\x04 some zip file").find("expected a .npy file"), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(1,)"), one, 4)).find("version 4"), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(1,)"), one).substr(0, 40)).find("the file has 40"), std::string::npos);
  EXPECT_NE(refusal(file(header("|O", "(1,)"), one)).find("type \"|O\""), std::string::npos);
  EXPECT_NE(refusal(file(header(">f4", "(1,)"), one)).find("type \">f4\""), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(2,)"), one))
                .find("4 bytes of elements, expected 8 for shape [2] of \"<f4\": the file is cut"),
            std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(0,)"), one)).find("4 bytes of elements, expected 0 for shape [0]"),
            std::string::npos);
  const std::string huge = "(999999999999999, 999999999999999, 999999999999999)";
  EXPECT_NE(refusal(file(header("<f4", huge), one)).find("4 bytes of elements, expected more than 2^63 for"),
            std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(0, 999999999999999, 999999999999999)"), "")).find("0 bytes of elements"),
            std::string::npos);
  EXPECT_NE(refusal(file(header("<f8", "(999999999999999, 9000)"), "")).find("expected more than 2^63"),
            std::string::npos)
      << "the elements can be counted, their bytes not";
  std::string long_header = file(header("<f4", "(1,)"), one, 2);
  long_header[10] = 2;  // 0x20000 and what it was
  EXPECT_NE(refusal(long_header).find("cut short"), std::string::npos);
  EXPECT_NE(refusal(long_header + std::string(1 << 18, ' ')).find("expected at most 65536"), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(-1,)"), one)).find("a dimension"), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(99999999999999999999,)"), one)).find("a dimension"), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(1,1,1,1,1,1,1)"), one)).find("at most 6"), std::string::npos);
  EXPECT_NE(refusal(file("{'descr': '<f4'}", one)).find("descr, fortran_order and shape"), std::string::npos);
  EXPECT_NE(refusal(file("{'descr': '<f4', 'descr': '<f4'}", one)).find("once"), std::string::npos);
  EXPECT_NE(refusal(file("{'evil': __import__('os')}", one)).find("\"evil\""), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(1,)", "Maybe"), one)).find("True or False"), std::string::npos);
  EXPECT_NE(refusal(file("{'descr': '<f4", one)).find("closing quote"), std::string::npos);
  EXPECT_NE(refusal(file(header("<f4", "(1,)") + "x", one)).find("the end"), std::string::npos);
}

}  // namespace
}  // namespace carousel::formats
