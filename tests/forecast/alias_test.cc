// SPDX-License-Identifier: Apache-2.0
// pandas' names of steps against what pandas makes of them (tests/fixtures/frequencies,
// tools/make_frequency_fixtures.py).
#include "carousel/forecast/alias.h"

#include <gtest/gtest.h>

#include <fstream>

#include "carousel/core/error.h"

namespace carousel::forecast {
namespace {

constexpr size_t kKnown = 6;

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == at) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

struct Case {
  std::string alias, before, inferred, verdicts;
  std::vector<std::string> stamps;
  std::vector<int64_t> known;
  TimeStyle style;
};

std::vector<Case> read_cases() {
  std::ifstream file(CAROUSEL_SOURCE_DIR "/tests/fixtures/frequencies/stamps.csv");
  std::vector<Case> cases;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> cells = split(line, ';');
    if (cells.size() != 5) continue;
    Case one{cells[0], cells[1], cells[2], cells[4], split(cells[3], ','), {}, {}};
    for (size_t i = 0; i < kKnown; ++i) {
      const auto time = parse_timestamp(one.stamps[i]);
      one.known.push_back(time->value);
      one.style = time->style;
    }
    cases.push_back(one);
  }
  EXPECT_GT(cases.size(), 150u);
  return cases;
}

// The stamps after the known ones, or the refusal.
std::string after(const Case& one, const std::string& alias) {
  try {
    std::vector<std::string> notes;
    const Frequency frequency = parse_frequency(alias, {one.known}, one.style, notes);
    std::string out;
    for (size_t i = kKnown; i < one.stamps.size(); ++i) {
      const int64_t at = frequency.advance(one.known.back(), static_cast<int64_t>(i - kKnown + 1));
      out += (i == kKnown ? "" : ",") + format_timestamp(at, one.style);
    }
    return out;
  } catch (const Error& error) {
    return error.what();
  }
}
std::string expected(const Case& one) {
  std::string out;
  for (size_t i = kKnown; i < one.stamps.size(); ++i) out += (i == kKnown ? "" : ",") + one.stamps[i];
  return out;
}

TEST(Alias, StampsAreThoseOfPandas) {
  for (const Case& one : read_cases()) {
    EXPECT_EQ(after(one, one.alias), expected(one)) << one.alias << " from " << one.stamps[0];
    EXPECT_EQ(after(one, one.before), expected(one)) << one.before << " from " << one.stamps[0];
    const auto inferred = infer_frequency({one.known}, false);
    ASSERT_TRUE(inferred);
    if (!one.inferred.empty()) {
      EXPECT_EQ(frequency_alias(*inferred, one.known.back()), one.inferred) << one.alias << " from " << one.stamps[0];
    } else {  // pandas knows no half months, nor steps of several business days
      EXPECT_EQ(format_timestamp(inferred->advance(one.known.back(), 1), one.style), one.stamps[kKnown]) << one.alias;
    }
  }
}

// Every name on every series: pandas' own stamps are taken, those with gaps too, all else is refused.
TEST(Alias, WhatContradictsTheTimesIsRefused) {
  const std::vector<Case> cases = read_cases();
  std::vector<std::string> aliases;
  for (const Case& one : cases) {
    if (aliases.empty() || aliases.back() != one.alias) aliases.push_back(one.alias);
  }
  for (const Case& one : cases) {
    ASSERT_EQ(one.verdicts.size(), aliases.size());
    for (size_t i = 0; i < aliases.size(); ++i) {
      const std::string got = after(one, aliases[i]);
      const bool refused = got.starts_with("--freq: got \"" + aliases[i] + "\"");
      EXPECT_EQ(refused, one.verdicts[i] == 'n')
          << aliases[i] << " on " << one.alias << " from " << one.stamps[0] << ": " << got;
    }
  }
}

std::string refusal(const std::string& alias, const std::vector<std::string>& stamps) {
  std::vector<int64_t> times;
  TimeStyle style;
  for (const std::string& stamp : stamps) {
    times.push_back(parse_timestamp(stamp)->value);
    style = parse_timestamp(stamp)->style;
  }
  std::vector<std::string> notes;
  try {
    parse_frequency(alias, {times}, style, notes);
  } catch (const Error& error) {
    return error.what();
  }
  return notes.empty() ? "accepted" : "noted: " + notes[0];
}

TEST(Alias, RefusalsSayWhatTheTimesHave) {
  const std::vector<std::string> sundays{"2021-01-03", "2021-01-10", "2021-01-17"};
  EXPECT_EQ(refusal("W-MON", sundays),
            "--freq: got \"W-MON\", but 2021-01-03 (a Sunday) is not one of its days; the times have W-SUN");
  EXPECT_EQ(refusal("D", sundays), "--freq: got \"D\", but the times have W-SUN, expected that or no --freq");
  EXPECT_EQ(refusal("ME", {"2020-01-15", "2020-02-15", "2020-03-15"}),
            "--freq: got \"ME\", but 2020-01-15 (a Wednesday) is not one of its days; the times have 1 month");
  for (const char* alias : {"Wxyz", "W-", "W-XYZ", "QE-XYZ", "MS-JAN", "D-SUN", "SMS-28", "SMS-1", "x", "", "0D", "3",
                            "-1D", "1.5h", "D3", "15", "q", "sun"}) {
    EXPECT_EQ(refusal(alias, sundays).rfind("--freq: got \"" + std::string(alias) + "\", expected a pandas alias", 0),
              0u)
        << alias;
  }
  for (const char* alias : {"C", "WOM-1MON", "LWOM-FRI", "bh", "CBME", "REQ-N-DEC-MON", "ms", "2us"}) {
    EXPECT_NE(refusal(alias, sundays).find("which is not supported"), std::string::npos) << alias;
  }
}

TEST(Alias, WithoutItsAnchorTakesThatOfTheTimes) {
  EXPECT_EQ(refusal("W", {"2021-01-03", "2021-01-10"}), "accepted");
  EXPECT_EQ(refusal("W", {"2021-01-06", "2021-01-13"}), "noted: --freq \"W\" is read as W-WED, which the times have");
  EXPECT_EQ(refusal("QE", {"2021-03-31", "2021-06-30"}), "accepted");
  EXPECT_EQ(refusal("Q", {"2021-01-31", "2021-04-30"}), "noted: --freq \"Q\" is read as QE-OCT, which the times have");
  EXPECT_EQ(refusal("YE", {"2019-06-30", "2020-06-30"}),
            "noted: --freq \"YE\" is read as YE-JUN, which the times have");
  EXPECT_NE(refusal("YE", {"2019-06-01", "2020-06-01"}).find("not one of its days"), std::string::npos);
}

TEST(Alias, MonthsWithoutADayAreMonthsUnderAnyName) {
  for (const char* alias : {"M", "MS", "ME", "BME"}) {
    EXPECT_EQ(refusal(alias, {"2021-01", "2021-02", "2021-03"}), "accepted") << alias;
  }
  EXPECT_EQ(refusal("QE-DEC", {"2020-12", "2021-03"}), "accepted");
  EXPECT_NE(refusal("QE-JAN", {"2020-12", "2021-03"}).find("not one of its days"), std::string::npos);
  EXPECT_NE(refusal("D", {"2021-01", "2021-02"}).find("expected whole months such as MS"), std::string::npos);
}

TEST(Alias, TicksAreSummed) {
  std::vector<std::string> notes;
  const std::vector<int64_t> times{0};
  const auto seconds = [] { return parse_timestamp("1970-01-01 00:00:00")->style; };
  EXPECT_EQ(parse_frequency("1h30min", {times}, seconds(), notes).step, 5400);
  EXPECT_EQ(parse_frequency("1D12h", {times}, seconds(), notes).step, 129600);
}

}  // namespace
}  // namespace carousel::forecast
