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

TEST(Csv, WordsOfPandasAreMissing) {
  for (const char* word : {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
                           "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}) {
    EXPECT_TRUE(csv_missing(word)) << word;
    ASSERT_TRUE(csv_number(word)) << word;
    EXPECT_TRUE(std::isnan(*csv_number(word))) << word;
  }
  for (const char* word : {"#DIV/0!", "-", "inf", "-inf", "nil", "?", "NaT", "nan(0)"})
    EXPECT_FALSE(csv_number(word)) << word;
}

TEST(Csv, SmallNumbersAreZeroAndLargeOnesNone) {
  EXPECT_EQ(csv_number("1e-400"), 0.0);
  EXPECT_EQ(csv_number("0." + std::string(400, '0') + "1"), 0.0);
  EXPECT_FALSE(csv_number("1e400"));
  EXPECT_FALSE(csv_number("1" + std::string(400, '0')));
}

TEST(Csv, CommasBesideAnotherDelimiterAreDecimal) {
  const CsvOptions comma{CsvOptions::Header::kAuto, ','};
  const CsvTable table = CsvTable::parse("2020-01-01;1,5;2,5\n2020-01-02;2,5;-3\n", "t", comma);
  ASSERT_EQ(table.columns(), 3);
  EXPECT_EQ(table.number(0, 1), 1.5);
  EXPECT_EQ(table.number(1, 2), -3.0);
  EXPECT_EQ(CsvTable::parse("a\n1,5\n", "t", comma).number(0, 0), 1.5);
  EXPECT_EQ(CsvTable::parse("1,5\t2,5\n1\t2\n", "t", comma).columns(), 2);
  EXPECT_FALSE(csv_number("1.234,5", ','));
  EXPECT_FALSE(csv_number("1,234,5", ','));
  EXPECT_EQ(CsvTable::parse("2020-01-01;1,5;2,5\n", "t").columns(), 3) << "told by the lines";
  try {
    CsvTable::parse("a;b\n1,5;2\n", "t").number(0, 0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--decimal comma"), std::string::npos) << error.what();
  }
}

TEST(Csv, ASeparatorLineIsNoRow) {
  const CsvTable table = CsvTable::parse("\xEF\xBB\xBFsep=;\r\na;b,c\r\n1;2\r\n", "t");
  EXPECT_EQ(table.header(), (std::vector<std::string>{"a", "b,c"}));
  EXPECT_EQ(table.line(0), 3);
  EXPECT_EQ(CsvTable::parse("\"sep=|\"\n1|2\n", "t").columns(), 2);
  EXPECT_EQ(CsvTable::parse("SEP=\t\n1\t2\n", "t").columns(), 2);
  EXPECT_EQ(CsvTable::parse("sep=x\n1\n", "t").header()[0], "sep=x");
}

TEST(Csv, OtherEncodingsAreNamed) {
  const auto refusal = [](const std::string& text) {
    try {
      CsvTable::parse(text, "t");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal(std::string("\xFF\xFE"
                                "1\0",
                                4))
                .rfind("t:1: UTF-16, expected UTF-8", 0),
            0u);
  EXPECT_EQ(refusal(std::string("\xFE\xFF\0"
                                "1",
                                4))
                .rfind("t:1: UTF-16, expected UTF-8", 0),
            0u);
  EXPECT_EQ(refusal(std::string("\xFF\xFE\0\0"
                                "1\0\0\0",
                                8))
                .rfind("t:1: UTF-32, expected UTF-8", 0),
            0u);
  EXPECT_NE(refusal(std::string("1\0002\0", 4)).find("a NUL byte"), std::string::npos);
  EXPECT_NE(refusal(std::string("1\n\"2\0\"\n", 7)).find("t:2: a NUL byte"), std::string::npos);
}

TEST(Csv, MissingValuesAreRefusedWhereNoneMayBe) {
  CsvOptions options;
  options.missing = false;
  for (const std::string cell : {"NA", "x", "\"\""}) {
    try {
      CsvTable::parse("1\n" + cell + "\n", "t", options).number(1, 0);
      ADD_FAILURE() << cell;
    } catch (const Error& error) {
      const std::string said = error.what();
      EXPECT_TRUE(said.ends_with("expected a finite number")) << said;
    }
  }
}

TEST(Csv, LinesOfDelimitersAroundATableAreNoRows) {
  const CsvTable table = CsvTable::parse(",,\na,b,c\n1,2,3\n,,\n4,5,6\n,,\n,,\n", "t");
  EXPECT_EQ(table.header()[0], "a");
  ASSERT_EQ(table.rows(), 3);
  EXPECT_EQ(table.line(0), 3);
  EXPECT_TRUE(std::isnan(table.number(1, 0)));
  EXPECT_EQ(CsvTable::parse("a,b\n1,2\n\"\",\n", "t").rows(), 2) << "quotes are text";
}

TEST(Csv, NamesOfColumnsAreThoseOfPandas) {
  const CsvTable table = CsvTable::parse(",a,a,b,,a\n1,2,3,4,5,6\n", "t");
  EXPECT_EQ(table.header(), (std::vector<std::string>{"Unnamed: 0", "a", "a.1", "b", "Unnamed: 4", "a.2"}));
}

TEST(Csv, LineEndsOfAllKindsAreAlike) {
  for (const char* text : {"a,b\n1,2\n3,4\n", "a,b\r\n1,2\r\n3,4\r\n", "a,b\r1,2\r3,4\r", "a,b\n1,2\n3,4",
                           "\xEF\xBB\xBF"
                           "a,b\r\n1,2\r\n3,4",
                           "\n\na,b\n\n1,2\n3,4\n\n"}) {
    const CsvTable table = CsvTable::parse(text, "t");
    EXPECT_EQ(table.header()[0], "a");
    ASSERT_EQ(table.rows(), 2);
    EXPECT_EQ(table.number(1, 1), 4.0);
  }
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
