// SPDX-License-Identifier: Apache-2.0
// Timestamps of a series: reading and writing them, the step between them, and the steps that come after. Calendar
// arithmetic in the proleptic Gregorian calendar, without time zones: an hour of daylight saving is an hour as any
// other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::forecast {

/// How a timestamp was written, so that later ones can be written alike.
struct TimeStyle {
  bool integer = false;  // a plain count
  char separator = '-';
  bool padded = true;  // 01, not 1
  bool day = false, clock = false, seconds = false, zulu = false;
  char join = ' ';  // before the clock: a blank or T
};

/// Seconds since 1970-01-01, or the count itself.
struct Timestamp {
  int64_t value = 0;
  TimeStyle style;
};

/// "1949-01", "2016-07-01 13:00:00", "2016/7/1 0:00", "2016-07-01T13:00Z", or an integer; years 1 to 9999.
std::optional<Timestamp> parse_timestamp(std::string_view text);
std::string format_timestamp(int64_t value, const TimeStyle& style);

/// The step of a series.
struct Frequency {
  enum class Unit : uint8_t { kCount, kSeconds, kMonths, kBusinessDays };
  Unit unit = Unit::kCount;
  int64_t step = 1;
  int anchor_day = 1;  // kMonths: day of the month, the last one where a month is shorter; 31 is the month's end

  int64_t advance(int64_t from, int64_t steps) const;
  /// Steps from `from` to `to`; nothing where no whole number of them leads there.
  std::optional<int64_t> steps(int64_t from, int64_t to) const;
  std::string str() const;  // "3 months"
};

/// The step of sorted, distinct times: whole months where every time is the same day of its month or its last one,
/// business days where only weekends are left out, else the commonest gap. Fewer than two times: nothing.
std::optional<Frequency> infer_frequency(const std::vector<std::vector<int64_t>>& series, bool integer);
/// A pandas alias ("15min", "h", "D", "B", "W", "MS", "ME", "QS", "YE", ...) or an integer. `first`: a time of the
/// series, which anchors months. Throws Error(kUsage).
Frequency parse_frequency(const std::string& text, int64_t first, bool integer);

}  // namespace carousel::forecast
