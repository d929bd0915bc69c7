// SPDX-License-Identifier: Apache-2.0
// Times as text: reading one, and writing later ones in the same style. Time zones are not converted: a fixed offset is
// kept as it is, and daylight saving is not known.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace carousel::forecast {

/// How a timestamp was written, so that later ones can be written alike.
struct TimeStyle {
  bool integer = false;  // a plain count
  bool decimal = false;  // a whole number written as 3.0, as pandas writes a column that once had a missing value
  int digits = 0;  // a date of digits alone has 4 (a year), 6, 8, 10, 12 or 14 of them (to the second); 0: another
  char separator = '-';
  bool padded = true;    // 01, not 1
  bool day = false;      // the day of the month is written
  bool clock = false;    // hours and minutes are written
  bool seconds = false;  // so are seconds
  int fraction = 0;      // zeros after the seconds' point
  std::string offset;    // "", "Z", "+00:00", "-0530"
  char join = ' ';       // before the clock: a blank or T

  enum class Finest : uint8_t { kYear, kMonth, kDay, kSecond };
  Finest finest() const;  // the smallest unit that can be written
};

/// Seconds since 1970-01-01 in the time's own offset, or the count itself.
struct Timestamp {
  int64_t value = 0;
  TimeStyle style;
};

/// "1949-01", "2016-07-01 13:00:00", "2016/7/1 0:00", "2016-07-01T13:00Z", "2016-07-01 13:00:00+02:00", or a whole
/// number ("7", "7.0", "1.5e9"); years 1 to 9999.
std::optional<Timestamp> parse_timestamp(std::string_view text);
/// For a text that is no timestamp but looks like a time of another kind: why, and what to write instead. Else empty.
std::string time_hint(std::string_view text);

/// The time that a number spells in 4 (2020), 6 (202001), 8 (20200131), 10, 12 or 14 digits. Years are 1000 to 9999.
/// With 6 digits they are 1600 to 2400 and with 10 digits 1800 to 2200, so that fewer other numbers are taken for
/// dates; with 4 digits 1583 to 2999, where counting years as integers gives the same.
std::optional<int64_t> date_of_digits(int64_t number, int digits);

/// Throws Error(kInput) beyond the year 9999, which no reader of dates takes.
std::string format_timestamp(int64_t value, const TimeStyle& style);

/// Minutes of "Z", "+02:00", "-0530", "+02"; "" is 0.
int64_t offset_minutes(std::string_view offset);

}  // namespace carousel::forecast
