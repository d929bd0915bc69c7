// SPDX-License-Identifier: Apache-2.0
#include "carousel/formats/csv.h"

#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

TEST(Csv, QuotesLineEndsAndByteOrderMark) {
  const CsvTable table = CsvTable::parse(
      "\xEF\xBB\xBF"
      "ds,\"a \"\"b\"\"\",\"c,d\"\r\n2020-01-31, 1.5 ,\"x\r\ny\"\r\n\r\n2,3,4",
      "t");
  EXPECT_EQ(table.header(), (std::vector<std::string>{"ds", "a \"b\"", "c,d"}));
  ASSERT_EQ(table.rows(), 2);
  EXPECT_EQ(table.cell(0, 1), "1.5");
  EXPECT_EQ(table.cell(0, 2), "x\r\ny");
  EXPECT_EQ(table.line(1), 5);  // the quoted line break and the blank line are counted
  EXPECT_EQ(table.find("c,d"), 2);
  EXPECT_EQ(table.find("c"), std::nullopt);
}

TEST(Csv, DelimiterIsToldByTheFirstLine) {
  EXPECT_EQ(CsvTable::parse("a;b\n1,5;2\n", "t").columns(), 2);
  EXPECT_EQ(CsvTable::parse("1\t2\t3\n", "t").columns(), 3);
  EXPECT_EQ(CsvTable::parse("\"a;b\"\n1\n", "t").columns(), 1);
}

TEST(Csv, HeaderIsALineWithACellThatIsNoValue) {
  EXPECT_TRUE(CsvTable::parse("112\n118\n", "t").header().empty());
  EXPECT_TRUE(CsvTable::parse("1949-01,112\n", "t").header().empty());
  EXPECT_TRUE(CsvTable::parse("nan,1\n", "t").header().empty());
  EXPECT_EQ(CsvTable::parse("date,0,1\nx,1,2\n", "t").header().size(), 3u);
  EXPECT_EQ(CsvTable::parse("0,1\n1,2\n", "t", {CsvOptions::Header::kYes}).header()[1], "1");
  EXPECT_TRUE(CsvTable::parse("a,b\n", "t", {CsvOptions::Header::kNo}).header().empty());
}

TEST(Csv, MissingValuesAreNaN) {
  const CsvTable table = CsvTable::parse("a,b,c,d\n,NA,NaN,null\nnone,n/a,+1,-2.5e3\n\"\",.5,1.,0\n", "t");
  for (int64_t column = 0; column < 4; ++column) EXPECT_TRUE(std::isnan(table.number(0, column))) << column;
  EXPECT_EQ(table.number(1, 2), 1.0);
  EXPECT_EQ(table.number(1, 3), -2500.0);
  EXPECT_TRUE(std::isnan(table.number(2, 0)));
  EXPECT_EQ(table.number(2, 1), 0.5);
}

TEST(Csv, ALineOfEmptyQuotesIsAMissingValue) { EXPECT_EQ(CsvTable::parse("1\n\"\"\n\n3\n", "t").rows(), 3); }

TEST(Csv, QuotedTextReadsBack) {
  for (const char* text : {"plain", "a,b", "say \"x\"", " spaced ", "two\nlines", ""}) {
    const CsvTable table = CsvTable::parse(csv_quoted(text) + ",1\n", "t", {CsvOptions::Header::kNo});
    EXPECT_EQ(table.cell(0, 0), text);
  }
}

}  // namespace
}  // namespace carousel::formats
