// SPDX-License-Identifier: Apache-2.0
// Tables to series and back, and the picture of a forecast.
#include "carousel/forecast/series.h"

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
  TableOptions options;
  options.columns = {"z"};
  EXPECT_NE(refusal("ds,y\n2020-01-01,1\n", options).find("--column: no column \"z\", expected one of: ds, y"),
            std::string::npos);
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
