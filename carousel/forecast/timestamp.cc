// SPDX-License-Identifier: Apache-2.0
// Parses a time as text together with its style, and formats one in a style.
#include "carousel/forecast/timestamp.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/forecast/dates.h"

namespace carousel::forecast {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 61;  // so that differences fit 64 bits
constexpr double kMaxExact = 9007199254740992;   // 2^53: every whole number up to it is a double

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Reads digits (at most `max_digits`) off the front of `text`.
std::optional<int64_t> take_number(std::string_view& text, size_t max_digits) {
  size_t count = 0;
  int64_t value = 0;
  while (count < text.size() && count < max_digits && is_digit(text[count])) value = value * 10 + (text[count++] - '0');
  if (count == 0) return std::nullopt;
  text.remove_prefix(count);
  return value;
}

bool take_char(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// "+02:00", "-0530", "+02": hours to 23, minutes to 59.
bool is_offset(std::string_view text) {
  if (text.empty() || (text[0] != '+' && text[0] != '-')) return false;
  text.remove_prefix(1);
  const size_t before = text.size();
  const auto hours = take_number(text, 2);
  if (!hours || *hours > 23 || before - text.size() != 2) return false;
  if (text.empty()) return true;
  take_char(text, ':');
  if (text.size() != 2) return false;
  const auto minutes = take_number(text, 2);
  return minutes && *minutes <= 59 && text.empty();
}

// "13:00", "13:00:00", "13:00:00.000", an optional offset.
std::optional<int64_t> parse_clock(std::string_view text, TimeStyle& style) {
  const auto hour = take_number(text, 2);
  if (!hour || *hour > 23 || !take_char(text, ':')) return std::nullopt;
  const auto minute = take_number(text, 2);
  if (!minute || *minute > 59) return std::nullopt;
  int64_t second = 0;
  if (take_char(text, ':')) {
    const auto read = take_number(text, 2);
    if (!read || *read > 59) return std::nullopt;
    second = *read;
    style.seconds = true;
    if (take_char(text, '.')) {
      const size_t before = text.size();
      if (take_number(text, 9) != 0) return std::nullopt;  // whole seconds only
      style.fraction = static_cast<int>(before - text.size());
    }
  }
  if (text == "Z" || is_offset(text)) {
    style.offset = text;
  } else if (!text.empty()) {
    return std::nullopt;
  }
  return *hour * 3600 + *minute * 60 + second;
}

std::optional<Timestamp> parse_date(std::string_view text) {
  Timestamp out;
  if (text.size() < 6 || std::string_view("-/").find(text[4]) == std::string_view::npos) return std::nullopt;
  out.style.separator = text[4];
  Date date{0, 1, 1};
  const auto year = take_number(text, 4);
  if (!year || !take_char(text, out.style.separator)) return std::nullopt;
  date.year = *year;
  const size_t before = text.size();
  const auto month = take_number(text, 2);
  if (!month) return std::nullopt;
  out.style.padded = before - text.size() == 2;
  date.month = *month;
  if (take_char(text, out.style.separator)) {
    const size_t before_day = text.size();
    const auto day = take_number(text, 2);
    if (!day) return std::nullopt;
    out.style.padded = out.style.padded && before_day - text.size() == 2;
    date.day = *day;
    out.style.day = true;
  }
  if (!is_date(date)) return std::nullopt;
  out.value = days_of(date) * kDaySeconds;
  if (text.empty()) return out;
  if (!out.style.day || (text[0] != ' ' && text[0] != 'T')) return std::nullopt;
  out.style.join = text[0];
  out.style.clock = true;
  const auto clock = parse_clock(text.substr(1), out.style);
  if (!clock) return std::nullopt;
  out.value += *clock;
  return out;
}

std::optional<Timestamp> parse_count(std::string_view text) {
  Timestamp out;
  out.style.integer = true;
  const char* end = text.data() + text.size();
  const auto whole = std::from_chars(text.data(), end, out.value);
  if (whole.ec == std::errc() && whole.ptr == end) {
    if (out.value < -kMaxCount || out.value > kMaxCount) return std::nullopt;
    return out;
  }
  double value = 0;
  const auto read = std::from_chars(text.data(), end, value);
  if (read.ec != std::errc() || read.ptr != end) return std::nullopt;
  if (!(std::abs(value) <= kMaxExact) || value != std::floor(value)) return std::nullopt;
  out.value = static_cast<int64_t>(value);
  out.style.decimal = true;
  return out;
}

}  // namespace

TimeStyle::Finest TimeStyle::finest() const {
  if (digits == 4) return Finest::kYear;
  if (digits == 6 || (digits == 0 && !integer && !day && !clock)) return Finest::kMonth;
  return digits == 8 ? Finest::kDay : Finest::kSecond;
}

std::optional<Timestamp> parse_timestamp(std::string_view text) {
  if (auto count = parse_count(text)) return count;
  return parse_date(text);
}

std::string time_hint(std::string_view text) {
  size_t first = 0;
  while (first < text.size() && is_digit(text[first])) ++first;
  const bool separated = first < text.size() && std::string_view("/.-").find(text[first]) != std::string_view::npos;
  const size_t colon = text.find(':');
  if ((first == 1 || first == 2) && separated && text.find_first_of("/.-", first + 1) != std::string_view::npos)
    return "which number is the day, the month or the year cannot be told; expected the year first, as 2016-07-31";
  if (colon != std::string_view::npos && text.find('.', colon) != std::string_view::npos)
    return "times have whole seconds here; expected no fraction, or no column of times (--column names the values)";
  if (first == 4 && text.find_first_of("QWqw") != std::string_view::npos)
    return "quarters and weeks by number are not read; expected their first day, as 2016-07-04";
  if (colon != std::string_view::npos && text.size() > 4 && (text[4] == '-' || text[4] == '/'))
    return "expected a clock such as 13:00:00, with no time zone or one such as Z, +00:00, +02:00";
  return "";
}

std::optional<int64_t> date_of_digits(int64_t number, int digits) {
  if (digits == 4) {
    if (number < 1583 || number > 2999) return std::nullopt;
    return days_of({number, 1, 1}) * kDaySeconds;
  }
  int64_t fields[6] = {0, 1, 1, 0, 0, 0};  // year, month, day, hour, minute, second
  for (int i = (digits - 4) / 2; i > 0; --i) {
    fields[i] = number % 100;
    number /= 100;
  }
  fields[0] = number;
  const int64_t first = digits == 6    ? 1600
                        : digits == 10 ? 1800
                                       : 1000,
                last = digits == 6    ? 2400
                       : digits == 10 ? 2200
                                      : kMaxYear;
  if (number < first || number > last || !is_date({fields[0], fields[1], fields[2]})) return std::nullopt;
  if (fields[3] > 23 || fields[4] > 59 || fields[5] > 59) return std::nullopt;
  return days_of({fields[0], fields[1], fields[2]}) * kDaySeconds + fields[3] * 3600 + fields[4] * 60 + fields[5];
}

std::string format_timestamp(int64_t value, const TimeStyle& style) {
  const char* decimal = style.decimal ? ".0" : "";
  if (style.integer) return fmt::format("{}{}", value, decimal);
  const Date date = date_of(floor_div(value, kDaySeconds));
  const int64_t clock = clock_of(value);
  if (date.year < 1 || date.year > kMaxYear) {
    fail(ErrorKind::kInput, "forecast: a time in the year {}, expected at most {}: a shorter --horizon", date.year,
         kMaxYear);
  }
  if (style.digits > 0) {
    const std::string all = fmt::format("{:04}{:02}{:02}{:02}{:02}{:02}", date.year, date.month, date.day, clock / 3600,
                                        clock / 60 % 60, clock % 60);
    return all.substr(0, static_cast<size_t>(style.digits)) + decimal;
  }
  const int width = style.padded ? 2 : 1;
  std::string out = fmt::format("{:04}{}{:0{}}", date.year, style.separator, date.month, width);
  if (style.day || style.clock || date.day != 1) out += fmt::format("{}{:0{}}", style.separator, date.day, width);
  if (style.clock || clock != 0) {
    out += fmt::format("{}{:0{}}:{:02}", style.join, clock / 3600, width, clock / 60 % 60);
    if (style.seconds || clock % 60 != 0) out += fmt::format(":{:02}", clock % 60);
    if (style.fraction > 0) out += "." + std::string(static_cast<size_t>(style.fraction), '0');
    out += style.offset;
  }
  return out;
}

int64_t offset_minutes(std::string_view offset) {
  if (offset.empty() || offset == "Z") return 0;
  const int64_t sign = offset[0] == '-' ? -1 : 1;
  offset.remove_prefix(1);
  const int64_t hours = take_number(offset, 2).value_or(0);
  take_char(offset, ':');
  return sign * (hours * 60 + take_number(offset, 2).value_or(0));
}

}  // namespace carousel::forecast
