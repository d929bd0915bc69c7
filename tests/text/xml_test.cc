// SPDX-License-Identifier: Apache-2.0
#include "carousel/text/xml.h"

#include <gtest/gtest.h>

namespace carousel::text {
namespace {

TEST(Xml, MarkupIsEscaped) {
  EXPECT_EQ(xml_text("<a b='c' d=\"e\">&"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;");
}

TEST(Xml, WhatNoDocumentMayHoldIsReplaced) {
  const std::string r = "\xEF\xBF\xBD";  // U+FFFD
  EXPECT_EQ(xml_text("a\tb\nc\rd"), "a b c d");
  EXPECT_EQ(xml_text(std::string_view("\0\x01\x1F\x7F", 4)), r + r + r + "\x7F");
  EXPECT_EQ(xml_text("Temp\xE9rature"), "Temp" + r + "rature");
  EXPECT_EQ(xml_text("\xED\xA0\x80"), r + r + r) << "a surrogate";
  EXPECT_EQ(xml_text("\xEF\xBF\xBE\xEF\xBF\xBF"), r + r) << "U+FFFE, U+FFFF";
  EXPECT_EQ(xml_text("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"), "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(xml_text("\xF0\x9F"), r) << "cut short";
}

}  // namespace
}  // namespace carousel::text
