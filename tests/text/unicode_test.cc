// SPDX-License-Identifier: Apache-2.0
#include "carousel/text/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace carousel::text {
namespace {

TEST(Utf8, EveryCodePointThereAndBack) {
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    std::string text;
    append_utf8(text, code);
    const Decoded decoded = decode_utf8(text, 0);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    ASSERT_EQ(decoded.valid, !surrogate) << static_cast<uint32_t>(code);
    if (surrogate) continue;
    ASSERT_EQ(decoded.code, code);
    ASSERT_EQ(decoded.size, text.size());
    ASSERT_EQ(valid_prefix("12345678" + text), 8 + text.size());
  }
}

// The table of Unicode's "substitution of maximal subparts" (Unicode 15, section 3.9, tables 3-8 to 3-11).
TEST(Utf8, InvalidSequencesBecomeAsManyReplacementsAsUnicodeSays) {
  const std::string r(kReplacement);
  EXPECT_EQ(replace_invalid("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(replace_invalid("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(replace_invalid("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(replace_invalid("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
  EXPECT_TRUE(decode_utf8("\xF0\x9F\x98", 0).partial);
  EXPECT_FALSE(decode_utf8("\xF0\x8F", 0).partial);
}

TEST(ByteAlphabet, IsABijection) {
  std::string all;
  for (int b = 0; b < 256; ++b) {
    EXPECT_EQ(char_to_byte(byte_to_char(static_cast<uint8_t>(b))), b);
    all.push_back(static_cast<char>(b));
  }
  EXPECT_EQ(byte_to_char(' '), 0x120u);
  EXPECT_EQ(byte_to_char('\n'), 0x10Au);
  EXPECT_EQ(byte_to_char('a'), static_cast<char32_t>('a'));
  std::string back;
  append_from_byte_alphabet(back, to_byte_alphabet(all));
  EXPECT_EQ(back, all);
  EXPECT_EQ(char_to_byte(' '), -1);
}

TEST(Normalize, Forms) {
  EXPECT_EQ(normalize("e\u0301", NormalForm::kNfc), "\u00e9");
  EXPECT_EQ(normalize("\u00e9", NormalForm::kNfd), "e\u0301");
  EXPECT_EQ(normalize("\ufb01\u00bd", NormalForm::kNfkc), "fi1\u20442");
  EXPECT_EQ(normalize("\u1112\u1161\u11ab", NormalForm::kNfc), "\ud55c");
  EXPECT_EQ(normalize("a\u0301\u0316", NormalForm::kNfd), "a\u0316\u0301");
  EXPECT_EQ(normalize("", NormalForm::kNfkd), "");
}

// Sorting a run of marks by exchanging neighbours would take hours.
TEST(Normalize, AMegabyteOfMarksEndsInTime) {
  std::string text = "a";
  for (int i = 0; i < 500000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0316";
  EXPECT_EQ(normalize(text, NormalForm::kNfd).size(), text.size());
}

}  // namespace
}  // namespace carousel::text
