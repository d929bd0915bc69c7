// SPDX-License-Identifier: Apache-2.0
// Tables to series and back, and the picture of a forecast.
#include "carousel/forecast/series.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "carousel/core/error.h"
#include "carousel/forecast/plot.h"

namespace carousel::forecast {
namespace {

SeriesTable read(const std::string& text, const TableOptions& options = {}) {
  return read_series(formats::CsvTable::parse(text, "t.csv"), options);
}
std::string refusal(const std::string& text, const TableOptions& options = {}) {
  try {
    read(text, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(SeriesTable, LongTablesAreSortedAndGapsAreMissing) {
  const SeriesTable table = read(
      "unique_id,ds,y\nb,2020-01-31,1\na,2020-03-31,3\na,2020-01-31,2\nb,2020-02-29,2\na,2020-02-29,\nb,2020-05-31,"
      "4\n");
  ASSERT_EQ(table.series.size(), 2u);
  EXPECT_EQ(table.series[0].id, "b");
  ASSERT_EQ(table.series[0].values.size(), 5u);
  EXPECT_EQ(table.series[0].values[1], 2);
  EXPECT_TRUE(std::isnan(table.series[0].values[2]));
  EXPECT_TRUE(std::isnan(table.series[0].values[3]));
  EXPECT_EQ(table.series[0].values[4], 4);
  ASSERT_EQ(table.series[1].values.size(), 3u);
  EXPECT_EQ(table.series[1].values[0], 2);
  EXPECT_TRUE(std::isnan(table.series[1].values[1]));
  EXPECT_EQ(format_timestamp(table.series[1].start, table.style), "2020-01-31");
  EXPECT_EQ(table.id_column, "unique_id");
}

TEST(SeriesTable, WideTablesHaveASeriesPerColumn) {
  const std::string text = "date,a,b\n2020-01-01,1,2\n2020-01-02,3,NaN\n";
  const SeriesTable table = read(text);
  ASSERT_EQ(table.series.size(), 2u);
  EXPECT_EQ(table.series[1].id, "b");
  EXPECT_EQ(table.series[0].values, (std::vector<double>{1, 3}));
  TableOptions options;
  options.columns = {"b"};
  EXPECT_EQ(read(text, options).series.size(), 1u);
}

TEST(SeriesTable, PlainColumnsCountTheirSteps) {
  const SeriesTable table = read("5\n6\n\"\"\n7\n");
  ASSERT_EQ(table.series.size(), 1u);
  EXPECT_EQ(table.series[0].values.size(), 4u);
  EXPECT_TRUE(table.style.integer);
  EXPECT_EQ(read("1949-01,112\n1949-02,118\n").series[0].values, (std::vector<double>{112, 118}));
}

TEST(SeriesTable, OnlyTheLastValuesAreKept) {
  TableOptions options;
  options.max_values = 3;
  const SeriesTable table = read("ds,y\n0,1\n1,2\n2,3\n3,4\n", options);
  EXPECT_EQ(table.series[0].values, (std::vector<double>{2, 3, 4}));
  EXPECT_EQ(table.series[0].start, 1);
}

TEST(SeriesTable, WhatCannotBeReadIsNamed) {
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\n2020-01-01,2\n")
                .find("t.csv:3: column 1 \"ds\": the time \"2020-01-01\" is there "
                      "already in line 2"),
            std::string::npos);
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\nx,2\n").find("t.csv:3: column 1 \"ds\": got \"x\", expected a time"),
            std::string::npos);
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\n5,2\n").find("t.csv:3: column 1"), std::string::npos);
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\n2020-01-02,x\n").find("t.csv:3: column 2 \"y\": got \"x\""),
            std::string::npos);
  EXPECT_NE(
      refusal("ds,y\n2020-01-01,1\n2020-01-02,1\n2020-01-03,1\n2020-01-03 07:00,1\n").find("no whole number of steps"),
      std::string::npos);
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\n").find("one time alone has no step"), std::string::npos);
  std::string gaps = "unique_id,ds,y\n";
  for (int id = 0; id < 40; ++id) {
    for (const int time : {0, 1, 2, 1000000}) gaps += fmt::format("s{},{},1\n", id, time);
  }
  EXPECT_NE(refusal(gaps).find("leaves more than 33554432 values out"), std::string::npos) << refusal(gaps);
  TableOptions options;
  options.columns = {"z"};
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\n", options).find("--column: no column \"z\", expected one of: ds, y"),
            std::string::npos);
}

// The time after the last row, as written.
std::string next_time(const std::string& text, const TableOptions& options = {}) {
  try {
    const SeriesTable table = read(text, options);
    const Series& series = table.series[0];
    return format_timestamp(table.frequency.advance(series.start, static_cast<int64_t>(series.values.size())),
                            table.style);
  } catch (const Error& error) {
    return error.what();
  }
}
TEST(SeriesTable, IntegersThatSpellDatesAreDates) {
  EXPECT_EQ(next_time("date,value\n20210130,1\n20210131,2\n"), "20210201");
  EXPECT_EQ(next_time("date,value\n20200227,1\n20200228,2\n"), "20200229");
  EXPECT_EQ(next_time("ds,y\n202011,1\n202012,2\n"), "202101");
  EXPECT_EQ(next_time("ds,y\n20200131,1\n20200229,2\n20200331,3\n"), "20200430");
  EXPECT_EQ(next_time("ds,y\n2020123122,1\n2020123123,2\n"), "2021010100");
  EXPECT_EQ(next_time("ds,y\n20201231230000,1\n20201231233000,2\n"), "20210101000000");
  EXPECT_EQ(next_time("ds,y\n20210130.0,1\n20210131.0,2\n"), "20210201.0");
  EXPECT_EQ(next_time("year,y\n2019,1\n2020,2\n"), "2021");
  EXPECT_EQ(read("ds,y\n20210130,1\n20210131,2\n20210201,3\n").series[0].values.size(), 3u);
  EXPECT_EQ(next_time("20210130,1\n20210131,2\n"), "20210201") << "the first column, without a name";
  EXPECT_EQ(next_time("Datum;Wert\n20210130;1\n20210131;2\n"), "20210201");
  EXPECT_NE(next_time("ds,y\n99991230,1\n99991231,2\n").find("the year 10000"), std::string::npos);
  TableOptions options;
  options.frequency = "D";
  EXPECT_EQ(next_time("ds,y\n20210130,1\n20210131,2\n", options), "20210201");
  options.frequency = "YE";
  EXPECT_EQ(next_time("ds,y\n2019,1\n2020,2\n", options), "2021");
  options.frequency = "h";
  EXPECT_NE(next_time("ds,y\n20210130,1\n", options).find("8 digits"), std::string::npos);
}

TEST(SeriesTable, IntegersOfWhichSomeSpellDatesAreAskedAbout) {
  EXPECT_NE(
      refusal("ds,y\n20200227,1\n20200228,2\n20200229,3\n20200230,4\n")
          .find("t.csv:5: column 1 \"ds\": got \"20200230\", no date as \"20200227\" in line 2 is, expected YYYYMMDD"),
      std::string::npos);
  EXPECT_NE(refusal("month,y\n202011,1\n202012,2\n202013,3\n").find("got \"202013\", no date"), std::string::npos);
  EXPECT_NE(refusal("ds,y\n20210125,1\n2021013,2\n").find("got \"2021013\", no date"), std::string::npos);
  EXPECT_NE(refusal("ds,y\n31012020,1\n01022020,2\n").find("its year last"), std::string::npos);
  EXPECT_NE(refusal("Tag,y\n210130,1\n210131,2\n").find("a year of two digits"), std::string::npos);
  TableOptions options;
  options.frequency = "1";
  EXPECT_EQ(next_time("ds,y\n20200229,3\n20200230,4\n", options), "20200231") << "counts, as was said";
  EXPECT_NE(next_time("ds,y\n20200228,3\n20200229,4\n", options).find("expected a pandas alias"), std::string::npos);
}

TEST(SeriesTable, OtherIntegersAreCounts) {
  EXPECT_EQ(next_time("ds,y\n0,1\n1,2\n2,3\n"), "3");
  EXPECT_EQ(next_time("ds,y\n100000,1\n100500,2\n"), "101000");
  EXPECT_EQ(next_time("ds,y\n1577836800,1\n1577840400,2\n"), "1577844000");
  EXPECT_EQ(next_time("ds,y\n1577836800000,1\n1577840400000,2\n"), "1577844000000");
  EXPECT_EQ(next_time("ds,y\n1577836800.0,1\n1577840400.0,2\n"), "1577844000.0");
  EXPECT_NE(refusal("ds,y\n1577836800.5,1\n").find("got \"1577836800.5\", expected a time"), std::string::npos);
}

TEST(SeriesTable, TimesOfOtherKindsAreNamed) {
  const auto of = [](const std::string& time) { return refusal("ds,y\n" + time + ",1\n"); };
  EXPECT_NE(of("01/02/2020").find("expected the year first"), std::string::npos);
  EXPECT_NE(of("31.01.2020").find("expected the year first"), std::string::npos);
  EXPECT_NE(of("20-01-31").find("expected the year first"), std::string::npos);
  EXPECT_NE(of("2020-01-01 10:00:00.25").find("expected no fraction"), std::string::npos);
  EXPECT_NE(of("2020-W05-1").find("quarters and weeks"), std::string::npos);
  EXPECT_NE(of("2020Q1").find("quarters and weeks"), std::string::npos);
  EXPECT_NE(of("2020-01-01 10:00 CET").find("expected a clock such as 13:00:00"), std::string::npos);
  EXPECT_NE(of("2020-02-30").find("expected a time such as"), std::string::npos);
}

TEST(SeriesTable, OffsetsFromUtcAreKeptAndNotMixed) {
  EXPECT_EQ(next_time("ds,y\n2020-01-01 00:00:00+00:00,1\n2020-01-01 01:00:00+00:00,2\n"), "2020-01-01 02:00:00+00:00");
  EXPECT_EQ(next_time("ds,y\n2020-01-01T00:00+02:00,1\n2020-01-02T00:00+02:00,2\n"), "2020-01-03T00:00+02:00");
  EXPECT_NE(next_time("ds,y\n2020-03-29 01:00+01:00,1\n2020-03-29 03:00+02:00,2\n").find("the offset from UTC"),
            std::string::npos);
  EXPECT_NE(next_time("ds,y\n2020-03-29 01:00Z,1\n2020-03-29 03:00,2\n").find("the offset from UTC"),
            std::string::npos);
  EXPECT_NE(next_time("ds,y\n2020-01,1\n2020-02-15,2\n").find("t.csv:3: column 1 \"ds\": got \"2020-02-15\" after"),
            std::string::npos);
  EXPECT_EQ(next_time("ds,y\n2020-1-30,1\n2020-1-31,2\n"), "2020-2-1");
  EXPECT_EQ(next_time("ds,y\n2019-12-31,1\n2020-1-1,2\n"), "2020-1-2");
}

TEST(SeriesTable, RowNumbersAreNoSeries) {
  const SeriesTable numbered = read("id,date,value\n1,2020-01-01,5\n2,2020-01-02,6\n3,2020-01-03,7\n");
  ASSERT_EQ(numbered.series.size(), 1u);
  EXPECT_EQ(numbered.series[0].values, (std::vector<double>{5, 6, 7}));
  ASSERT_EQ(numbered.notes.size(), 1u);
  EXPECT_NE(numbered.notes[0].find("column 1 \"id\" numbers the rows"), std::string::npos);
  EXPECT_EQ(read("id,value\n1,5\n2,6\n3,7\n").series.size(), 1u);
  EXPECT_EQ(next_time("id,value\n1,5\n2,6\n3,7\n"), "4");
  EXPECT_EQ(next_time("id,date,value\n101,2020-01-01,5\n207,2020-01-02,6\n"), "2020-01-03") << "a key";
  const SeriesTable frame = read(",value\n7,10\n8,11\n9,12\n");
  ASSERT_EQ(frame.series.size(), 1u);
  EXPECT_EQ(frame.series[0].id, "value");
  EXPECT_EQ(frame.time_column, "");
  EXPECT_EQ(next_time(",value\n7,10\n8,11\n9,12\n"), "10");
  EXPECT_EQ(read("Unnamed: 0,date,a\n5,2020-01-01,1\n3,2020-01-02,2\n").series.size(), 1u) << "a shuffled index";
  EXPECT_EQ(read(",unique_id,ds,y\n0,a,1,1\n1,a,2,2\n2,b,1,3\n3,b,2,4\n").series.size(), 2u);
  EXPECT_EQ(read("index,a,b\n0,1,2\n1,2,3\n").series.size(), 2u);
  EXPECT_EQ(read("date,a,\n2020-01-01,1,\n2020-01-02,2,\n").series.size(), 1u) << "a delimiter too many";
  const SeriesTable ramp = read("x,b\n0,1\n1,2\n2,3\n");
  EXPECT_EQ(ramp.series.size(), 2u);
  ASSERT_EQ(ramp.notes.size(), 1u);
  EXPECT_NE(ramp.notes[0].find("column 1 \"x\" rises by the same step"), std::string::npos);
  EXPECT_TRUE(read("0\n1\n2\n").notes.empty()) << "the only column";
}

TEST(SeriesTable, NamesThatAreThereOnceAreToldOf) {
  EXPECT_NE(refusal("unique_id,ds,y\na,2020-01-01,5\nb,2020-01-02,6\n")
                .find("t.csv:2: column 1 \"unique_id\" is taken for the names of 2 series, and each has one row"),
            std::string::npos);
  EXPECT_EQ(read("id,y\na,5\nb,6\n").notes.size(), 1u);
  EXPECT_EQ(read("id,ds,y\n1,5,5\n2,5,6\n").series.size(), 2u) << "two series of one time";
}

TEST(SeriesTable, MonthsAndYearsAreTimes) {
  EXPECT_EQ(next_time("month,value\n202011,1\n202012,2\n202101,3\n"), "202102");
  EXPECT_EQ(next_time("a,Month\n1,2020-11\n2,2020-12\n"), "2021-01");
  EXPECT_EQ(next_time("Year,sales\n2018,1\n2019,2\n"), "2020");
  EXPECT_NE(refusal("year,month,value\n2020,1,5\n2020,2,6\n").find("t.csv:2: column 1 \"year\": \"2020\" is a part"),
            std::string::npos);
  EXPECT_NE(refusal("month,value\n1,5\n2,6\n").find("is a part of a time"), std::string::npos);
  EXPECT_NE(refusal("week,value\n202001,5\n202002,6\n").find("is a part of a time"), std::string::npos);
  const SeriesTable feature = read("date,month,value\n2020-01-31,1,5\n2020-02-29,2,6\n");
  EXPECT_EQ(feature.series.size(), 2u);
  EXPECT_EQ(feature.notes.size(), 1u);
  TableOptions options;
  options.columns = {"value"};
  EXPECT_EQ(read("month,value\n1,5\n2,6\n", options).series.size(), 1u);
}

TEST(SeriesTable, LinesOfDelimitersAloneHoldNoTime) {
  EXPECT_EQ(next_time("date,value\n2020-01-01,1\n2020-01-02,2\n,\n"), "2020-01-03");
  EXPECT_EQ(next_time("date,value\n2020-01-01,1\n,\n2020-01-02,2\n"), "2020-01-03");
  EXPECT_EQ(read("a,b\n1,2\n,\n3,4\n,\n,\n").series[0].values.size(), 3u) << "a row without a time is a step";
  EXPECT_NE(refusal("date,value\n2020-01-01,1\n,5\n").find("t.csv:3: column 1 \"date\": got \"\""), std::string::npos);
}

TEST(SeriesTable, ValuesBeyondFloat32AreNamed) {
  EXPECT_NE(refusal("y\n1\n1e39\n").find("t.csv:3: column 1 \"y\": got \"1e39\", expected a value within the range"),
            std::string::npos);
  EXPECT_EQ(read("y\n1e-400\n-1e-400\n1\n").series[0].values[0], 0);
}

TEST(SeriesTable, FrequenciesAreThoseOfThePlainTimes) {
  TableOptions options;
  options.frequency = "QE-DEC";
  EXPECT_EQ(next_time("ds,y\n2020-03-31,1\n2020-06-30,2\n", options), "2020-09-30");
  for (const char* frequency : {"7", "D"}) {
    options.frequency = frequency;
    EXPECT_NE(refusal("y\n1\n2\n", options).find("no column of times"), std::string::npos);
  }
  options.frequency = "W-MON";
  EXPECT_NE(next_time("ds,y\n2021-01-03,1\n2021-01-10,2\n", options).find("the times have W-SUN"), std::string::npos);
}

TEST(Quantiles, AreInterpolatedAndNotExtrapolated) {
  const std::vector<float> values{1, 3, 7, 10, 30, 70};  // [2, 3]
  const std::vector<double> levels{0.1, 0.5, 0.9};
  EXPECT_EQ(select_quantiles(values, levels, {0.1, 0.5, 0.9}), (std::vector<double>{1, 3, 7, 10, 30, 70}));
  const std::vector<double> between = select_quantiles(values, levels, {0.2, 0.8});
  EXPECT_NEAR(between[0], 1.5, 1e-12);
  EXPECT_NEAR(between[3], 60, 1e-12);
  EXPECT_THROW(select_quantiles(values, levels, {0.05}), Error);
  EXPECT_THROW(select_quantiles(values, levels, {0.95}), Error);
}

TEST(WriteForecasts, HasTheColumnsOfChronosAndNixtla) {
  const SeriesTable table = read("unique_id,ds,y\na,2020-01-31,1\na,2020-02-29,2\n");
  const std::vector<SeriesForecast> forecasts{{{1.5, 2.5}, {1, 1.5, 2, 2, 2.5, 3}}};
  const std::vector<double> levels{0.1, 0.5, 0.9};
  EXPECT_EQ(
      write_forecasts(table, forecasts, levels, TableStyle::kNixtla),
      "unique_id,ds,TiRex,TiRex-lo-80,TiRex-median,TiRex-hi-80\na,2020-03-31,1.5,1,1.5,2\na,2020-04-30,2.5,2,2.5,3\n");
  EXPECT_EQ(write_forecasts(read("7\n8\n"), forecasts, levels, TableStyle::kChronos),
            "item_id,timestamp,predictions,0.1,0.5,0.9\nseries 1,2,1.5,1,1.5,2\nseries 1,3,2.5,2,2.5,3\n");
}

TEST(Plot, ShowsHistoryMedianAndBands) {
  const SeriesTable table = read("ds,a<b\n0,1\n1,2\n2,\n3,3\n");
  const std::string svg = plot_forecasts(table, {{{1.5, 2.5}, {1, 1.5, 2, 2, 2.5, 3}}}, {0.1, 0.5, 0.9});
  const auto count = [&](const std::string& what) {
    size_t found = 0;
    for (size_t at = svg.find(what); at != svg.npos; at = svg.find(what, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("<polyline"), 2u) << "one stretch of history and the median";
  EXPECT_EQ(count("<circle"), 1u) << "a value between gaps";
  EXPECT_EQ(count("<polygon"), 1u);
  EXPECT_EQ(count("a&lt;b"), 1u);
  EXPECT_EQ(count("<text"), count("</text>"));
  EXPECT_EQ(count("nan"), 0u);
  EXPECT_EQ(count("inf"), 0u);
}

TEST(Plot, NamesAreTextOfXml) {
  const SeriesTable table = read("ds,\"Temp\xE9\x01 'a' & <b>\n\"\n0,1\n1,2\n");
  const std::string svg = plot_forecasts(table, {{{5}, {5, 5}}}, {0.1, 0.9});
  EXPECT_NE(svg.find("Temp\xEF\xBF\xBD\xEF\xBF\xBD &#39;a&#39; &amp; &lt;b&gt; </text>"), std::string::npos) << svg;
}

// Neighbours among doubles: 1 more changes neither, and the ticks between them end all the same.
TEST(Plot, ValuesTooLargeToCountByOne) {
  const SeriesTable table = read("ds,y\n0,10000000000000000\n1,10000000000000002\n");
  EXPECT_LT(plot_forecasts(table, {{{1e16}, {1e16, 1e16}}}, {0.1, 0.9}).size(), 50000u);
}

TEST(Plot, AnySeriesCanBeShown) {
  for (const char* text : {"ds,y\n0,\n1,\n", "ds,y\n0,5\n1,5\n", "5\n", "ds,y\n0,1e30\n1,-1e30\n"}) {
    const std::string svg = plot_forecasts(read(text), {{{5}, {5, 5}}}, {0.1, 0.9});
    EXPECT_EQ(svg.find("nan"), std::string::npos) << text;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << text;
    EXPECT_NE(svg.find("</svg>"), std::string::npos);
  }
}

}  // namespace
}  // namespace carousel::forecast
