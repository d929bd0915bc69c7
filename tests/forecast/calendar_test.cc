// SPDX-License-Identifier: Apache-2.0
#include "carousel/forecast/calendar.h"

#include <gtest/gtest.h>

#include <string>

#include "carousel/core/error.h"

namespace carousel::forecast {
namespace {

int64_t at(const std::string& text) {
  const auto time = parse_timestamp(text);
  EXPECT_TRUE(time) << text;
  return time ? time->value : 0;
}
Frequency inferred(const std::vector<std::string>& texts) {
  std::vector<int64_t> times;
  for (const std::string& text : texts) times.push_back(at(text));
  const auto found = infer_frequency({times}, false);
  EXPECT_TRUE(found);
  return found.value_or(Frequency{});
}
// The `steps`-th time after the last, written as it was.
std::string next(const std::vector<std::string>& texts, int64_t steps = 1) {
  const auto last = parse_timestamp(texts.back());
  return format_timestamp(inferred(texts).advance(last->value, steps), last->style);
}

TEST(Timestamp, IsWrittenAsItWasRead) {
  for (const char* text : {"1949-01", "2016-07-01", "2016-07-01 13:00:00", "2016-07-01T13:05", "2016/7/1 0:00", "-3",
                           "0001-01-01", "9999-12-31 23:59:59", "2020-02-29T00:00:00Z"}) {
    const auto time = parse_timestamp(text);
    ASSERT_TRUE(time) << text;
    EXPECT_EQ(format_timestamp(time->value, time->style), text);
  }
  EXPECT_EQ(at("1970-01-01 00:00:01"), 1);
  EXPECT_EQ(at("2000-03-01"), 951868800);
  EXPECT_EQ(at("1969-12-31"), -86400);
}

TEST(Timestamp, WhatIsNoneIsRefused) {
  for (const char* text : {"",
                           "2020-13",
                           "2020-02-30",
                           "2021-02-29",
                           "01/02/2020",
                           "2020-1-1x",
                           "2020-01-01 24:00",
                           "2020-01-01 1",
                           "2020-01-01 10:00:00.5",
                           "0000-01-01",
                           "1.5",
                           "2020-",
                           "99999999999999999999",
                           "2020-01-01 10:00+2",
                           "2020-01-01 10:00+24:00",
                           "2020-01-01+00:00",
                           "2020-01-01 10:00 UTC",
                           "20-01-31",
                           "2020-W05",
                           "2020Q1",
                           "+5",
                           "2020-01-01 10:00:00Z+00:00",
                           "1e300",
                           "inf",
                           "nan"}) {
    EXPECT_FALSE(parse_timestamp(text)) << text;
  }
}

TEST(Frequency, IsInferredFromTheTimes) {
  EXPECT_EQ(next({"2016-07-01 00:00:00", "2016-07-01 01:00:00", "2016-07-01 02:00:00"}), "2016-07-01 03:00:00");
  EXPECT_EQ(next({"1949-11", "1949-12"}), "1950-01");
  EXPECT_EQ(next({"2020-01-31", "2020-02-29", "2020-03-31"}), "2020-04-30");
  EXPECT_EQ(next({"2020-11-30", "2020-12-30", "2021-01-30"}), "2021-02-28");
  EXPECT_EQ(next({"2020-11-30", "2020-12-30", "2021-01-30"}, 2), "2021-03-30");
  EXPECT_EQ(next({"2019-03-31", "2019-06-30", "2019-09-30"}), "2019-12-31");
  EXPECT_EQ(next({"2018-01-01", "2019-01-01", "2020-01-01"}), "2021-01-01");
  EXPECT_EQ(next({"2002-01-01", "2002-01-08", "2002-01-15"}), "2002-01-22");
  EXPECT_EQ(next({"2021-05-06", "2021-05-07", "2021-05-10", "2021-05-11"}, 4), "2021-05-17");
  EXPECT_EQ(inferred({"2021-05-06", "2021-05-07", "2021-05-10"}).unit, Frequency::Unit::kBusinessDays);
  EXPECT_EQ(inferred({"2021-05-03", "2021-05-04", "2021-05-05"}).str(), "1 day");
  EXPECT_FALSE(infer_frequency({{5}, {7}}, true));
}

TEST(Frequency, GapsDoNotChangeTheStep) {
  const Frequency daily = inferred({"2021-05-01", "2021-05-02", "2021-05-05", "2021-05-06"});
  EXPECT_EQ(daily.steps(at("2021-05-02"), at("2021-05-05")), 3);
  EXPECT_EQ(daily.steps(at("2021-05-02"), at("2021-05-02 01:00")), std::nullopt);
  const Frequency monthly = inferred({"2020-01-31", "2020-02-29", "2020-05-31"});
  EXPECT_EQ(monthly.steps(at("2020-01-31"), at("2020-05-31")), 4);
  EXPECT_EQ(monthly.steps(at("2020-01-31"), at("2020-05-30")), std::nullopt);
}

TEST(Frequency, StepsInvertAdvance) {
  for (const Frequency& frequency :
       {Frequency{Frequency::Unit::kMonths, 1, 31}, Frequency{Frequency::Unit::kMonths, 3, 15},
        Frequency{Frequency::Unit::kBusinessDays, 1}, Frequency{Frequency::Unit::kSeconds, 900}}) {
    const int64_t start = frequency.advance(at("1968-02-01"), frequency.unit == Frequency::Unit::kMonths ? 1 : 0);
    for (int64_t k = -900; k < 900; k += 7) EXPECT_EQ(frequency.steps(start, frequency.advance(start, k)), k);
  }
}

TEST(Frequency, FirstAndLastBusinessDaysAreInferred) {
  EXPECT_EQ(next({"2020-10-30", "2020-11-30", "2020-12-31", "2021-01-29"}), "2021-02-26");
  EXPECT_EQ(next({"2021-01-01", "2021-02-01", "2021-03-01", "2021-04-01", "2021-05-03"}), "2021-06-01");
  EXPECT_EQ(next({"2021-01-01", "2021-01-15", "2021-02-01"}), "2021-02-15");
  EXPECT_EQ(next({"2021-01-15", "2021-01-31", "2021-02-15"}), "2021-02-28");
}

TEST(Timestamp, OffsetsAndFractionsOfZeroAreKept) {
  for (const char* text : {"2020-01-01 00:00:00+00:00", "2020-01-01T10:00-0530", "2020-01-01 10:00:00.000",
                           "2020-01-01 10:00:00.000000+02", "2020-10-1"}) {
    const auto time = parse_timestamp(text);
    ASSERT_TRUE(time) << text;
    EXPECT_EQ(format_timestamp(time->value, time->style), text);
  }
  EXPECT_EQ(at("2020-01-01 10:00+02:00"), at("2020-01-01 10:00")) << "times are those of the offset";
  EXPECT_EQ(offset_minutes("-0530"), -330);
  EXPECT_EQ(offset_minutes("Z"), offset_minutes("+00:00"));
}

TEST(Timestamp, WholeNumbersHaveNoFraction) {
  EXPECT_EQ(at("1577836800.0"), 1577836800);
  EXPECT_EQ(at("1.5778368e9"), 1577836800);
  EXPECT_EQ(at("1577836800000000000"), 1577836800000000000);
  const auto time = parse_timestamp("7.0");
  EXPECT_EQ(format_timestamp(time->value + 1, time->style), "8.0");
}

TEST(Timestamp, DigitsSpellDatesThatExist) {
  const auto written = [](int64_t number, int digits) {
    TimeStyle style;
    style.digits = digits;
    const auto time = date_of_digits(number, digits);
    return time ? format_timestamp(*time, style) : "none";
  };
  for (const int64_t number : {20200229LL, 202012LL, 2020LL, 2020022923LL, 202002292359LL, 20200229235959LL}) {
    EXPECT_EQ(written(number, static_cast<int>(std::to_string(number).size())), std::to_string(number));
  }
  EXPECT_EQ(written(20200230, 8), "none");
  EXPECT_EQ(written(20210229, 8), "none");
  EXPECT_EQ(written(202013, 6), "none");
  EXPECT_EQ(written(2020022924, 10), "none");
  EXPECT_EQ(written(1577836800, 10), "none") << "seconds since 1970";
}

TEST(Timestamp, NoneIsWrittenBeyondTheYear9999) {
  const auto last = parse_timestamp("9999-12-31");
  EXPECT_THROW(format_timestamp(last->value + 86400, last->style), Error);
}

TEST(Frequency, CountsStayWithin64Bits) {
  EXPECT_THROW((Frequency{Frequency::Unit::kCount, int64_t{1} << 60}.advance(int64_t{1} << 60, 100)), Error);
}

}  // namespace
}  // namespace carousel::forecast
