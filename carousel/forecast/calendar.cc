// SPDX-License-Identifier: Apache-2.0
#include "carousel/forecast/calendar.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "carousel/core/error.h"

namespace carousel::forecast {
namespace {

constexpr int64_t kDay = 86400;
constexpr int64_t kMaxCount = int64_t{1} << 53;
using Unit = Frequency::Unit;

struct Date {
  int64_t year, month, day;
};

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// Days since 1970-01-01 and back: eras of 400 years, years that begin in March.
int64_t days_of(Date date) {
  const int64_t year = date.year - (date.month <= 2 ? 1 : 0);
  const int64_t era = floor_div(year, 400), in_era = year - era * 400;
  const int64_t in_year = (153 * ((date.month + 9) % 12) + 2) / 5 + date.day - 1;
  return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719468;
}
Date date_of(int64_t days) {
  days += 719468;
  const int64_t era = floor_div(days, 146097), in_era = days - era * 146097;
  const int64_t year = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
  const int64_t in_year = in_era - (365 * year + year / 4 - year / 100);
  const int64_t shifted = (5 * in_year + 2) / 153;
  const int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
  return {year + era * 400 + (month <= 2 ? 1 : 0), month, in_year - (153 * shifted + 2) / 5 + 1};
}
int64_t month_days(int64_t year, int64_t month) {
  return month == 12 ? 31 : days_of({year, month + 1, 1}) - days_of({year, month, 1});
}
int64_t month_index(int64_t seconds) {
  const Date date = date_of(floor_div(seconds, kDay));
  return date.year * 12 + date.month - 1;
}
int64_t day_of_month(int64_t seconds) { return date_of(floor_div(seconds, kDay)).day; }
bool is_month_end(int64_t seconds) {
  const Date date = date_of(floor_div(seconds, kDay));
  return date.day == month_days(date.year, date.month);
}
int64_t clock_of(int64_t seconds) { return seconds - floor_div(seconds, kDay) * kDay; }
int64_t weekday(int64_t days) { return days + 3 - floor_div(days + 3, 7) * 7; }  // Monday is 0

// Reads digits (at most `max_digits`) off the front of `text`.
std::optional<int64_t> take_number(std::string_view& text, size_t max_digits) {
  size_t count = 0;
  int64_t value = 0;
  while (count < text.size() && count < max_digits && text[count] >= '0' && text[count] <= '9') {
    value = value * 10 + (text[count++] - '0');
  }
  if (count == 0) return std::nullopt;
  text.remove_prefix(count);
  return value;
}
bool take_char(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// "13:00", "13:00:00", "13:00:00.000", an optional Z.
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
    if (take_char(text, '.') && take_number(text, 9) != 0) return std::nullopt;  // whole seconds only
  }
  style.zulu = take_char(text, 'Z');
  if (!text.empty()) return std::nullopt;
  return *hour * 3600 + *minute * 60 + second;
}

std::optional<Timestamp> parse_date(std::string_view text) {
  Timestamp out;
  if (text.size() < 6 || std::string_view("-/").find(text[4]) == std::string_view::npos) return std::nullopt;
  out.style.separator = text[4];
  Date date{0, 1, 1};
  const auto year = take_number(text, 4);
  if (!year || *year < 1 || !take_char(text, out.style.separator)) return std::nullopt;
  date.year = *year;
  const size_t before = text.size();
  const auto month = take_number(text, 2);
  if (!month || *month < 1 || *month > 12) return std::nullopt;
  out.style.padded = before - text.size() == 2;
  date.month = *month;
  if (take_char(text, out.style.separator)) {
    const auto day = take_number(text, 2);
    if (!day || *day < 1 || *day > month_days(date.year, date.month)) return std::nullopt;
    date.day = *day;
    out.style.day = true;
  }
  out.value = days_of(date) * kDay;
  if (text.empty()) return out;
  if (!out.style.day || (text[0] != ' ' && text[0] != 'T')) return std::nullopt;
  out.style.join = text[0];
  out.style.clock = true;
  const auto clock = parse_clock(text.substr(1), out.style);
  if (!clock) return std::nullopt;
  out.value += *clock;
  return out;
}

// Whole months: the same day of every month, or the last one where a month is shorter.
std::optional<Frequency> monthly(const std::vector<std::vector<int64_t>>& series) {
  int64_t anchor = 0, step = 0, clock = -1;
  bool ends = true;
  for (const auto& times : series) {
    for (const int64_t time : times) {
      anchor = std::max(anchor, day_of_month(time));
      ends = ends && is_month_end(time);
      if (clock < 0) clock = clock_of(time);
      if (clock_of(time) != clock) return std::nullopt;
    }
  }
  if (ends) anchor = 31;
  std::map<int64_t, int64_t> gaps;
  for (const auto& times : series) {
    for (size_t i = 0; i < times.size(); ++i) {
      const Date date = date_of(floor_div(times[i], kDay));
      if (date.day != std::min(anchor, month_days(date.year, date.month))) return std::nullopt;
      if (i == 0) continue;
      const int64_t gap = month_index(times[i]) - month_index(times[i - 1]);
      if (gap < 1) return std::nullopt;
      ++gaps[gap];
    }
  }
  int64_t best = 0;
  for (const auto& [gap, count] : gaps) {
    if (count > best) {
      best = count;
      step = gap;
    }
  }
  return Frequency{Unit::kMonths, step, static_cast<int>(anchor)};
}

bool business_days(const std::vector<std::vector<int64_t>>& series) {
  bool weekend_skipped = false;
  for (const auto& times : series) {
    for (size_t i = 0; i < times.size(); ++i) {
      const int64_t day = floor_div(times[i], kDay);
      if (weekday(day) > 4 || clock_of(times[i]) != clock_of(times[0])) return false;
      if (i > 0 && day - floor_div(times[i - 1], kDay) == 3) weekend_skipped = true;
    }
  }
  return weekend_skipped;
}

// Business days since the first Monday after 1970-01-01.
int64_t business_index(int64_t days) {
  const int64_t week = floor_div(days - 4, 7);
  return week * 5 + std::min<int64_t>(4, days - 4 - week * 7);
}

}  // namespace

std::optional<Timestamp> parse_timestamp(std::string_view text) {
  Timestamp out;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out.value);
  if (error == std::errc() && end == text.data() + text.size()) {
    out.style.integer = true;
    if (out.value < -kMaxCount || out.value > kMaxCount) return std::nullopt;
    return out;
  }
  return parse_date(text);
}

std::string format_timestamp(int64_t value, const TimeStyle& style) {
  if (style.integer) return std::to_string(value);
  const Date date = date_of(floor_div(value, kDay));
  const int64_t clock = clock_of(value);
  const int width = style.padded ? 2 : 1;
  std::string out = fmt::format("{:04}{}{:0{}}", date.year, style.separator, date.month, width);
  if (style.day || style.clock || date.day != 1) out += fmt::format("{}{:0{}}", style.separator, date.day, width);
  if (style.clock || clock != 0) {
    out += fmt::format("{}{:0{}}:{:02}", style.join, clock / 3600, width, clock / 60 % 60);
    if (style.seconds || clock % 60 != 0) out += fmt::format(":{:02}", clock % 60);
    if (style.zulu) out += 'Z';
  }
  return out;
}

int64_t Frequency::advance(int64_t from, int64_t count) const {
  if (unit == Unit::kCount || unit == Unit::kSeconds) return from + count * step;
  const int64_t clock = clock_of(from);
  if (unit == Unit::kMonths) {
    const int64_t month = month_index(from) + count * step, year = floor_div(month, 12);
    const int64_t of_year = month - year * 12 + 1;
    const int64_t day = std::min<int64_t>(anchor_day, month_days(year, of_year));
    return days_of({year, of_year, day}) * kDay + clock;
  }
  const int64_t index = business_index(floor_div(from, kDay)) + count * step, week = floor_div(index, 5);
  return (4 + week * 7 + index - week * 5) * kDay + clock;
}

std::optional<int64_t> Frequency::steps(int64_t from, int64_t to) const {
  int64_t distance = to - from;
  if (unit == Unit::kMonths) distance = month_index(to) - month_index(from);
  if (unit == Unit::kBusinessDays)
    distance = business_index(floor_div(to, kDay)) - business_index(floor_div(from, kDay));
  const int64_t count = floor_div(distance, step);
  if (advance(from, count) != to) return std::nullopt;
  return count;
}

std::string Frequency::str() const {
  const auto counted = [](int64_t count, const char* noun) {
    return count == 1 ? fmt::format("1 {}", noun) : fmt::format("{} {}s", count, noun);
  };
  if (unit == Unit::kMonths) return counted(step, "month");
  if (unit == Unit::kBusinessDays) return counted(step, "business day");
  if (unit == Unit::kCount) return counted(step, "step");
  if (step % kDay == 0) return counted(step / kDay, "day");
  if (step % 3600 == 0) return counted(step / 3600, "hour");
  return step % 60 == 0 ? counted(step / 60, "minute") : counted(step, "second");
}

std::optional<Frequency> infer_frequency(const std::vector<std::vector<int64_t>>& series, bool integer) {
  std::map<int64_t, int64_t> gaps;
  for (const auto& times : series) {
    for (size_t i = 1; i < times.size(); ++i) ++gaps[times[i] - times[i - 1]];
  }
  if (gaps.empty()) return std::nullopt;
  const auto commonest =
      std::max_element(gaps.begin(), gaps.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (integer) return Frequency{Unit::kCount, commonest->first};
  if (const auto found = monthly(series)) return found;
  if (commonest->first == kDay && business_days(series)) return Frequency{Unit::kBusinessDays, 1};
  return Frequency{Unit::kSeconds, commonest->first};
}

Frequency parse_frequency(const std::string& text, int64_t first, bool integer) {
  std::string_view unit = text;
  const int64_t step = take_number(unit, 6).value_or(1);
  const auto is = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), unit) != names.end();
  };
  const auto months = [&](int64_t count, bool end) {
    return Frequency{Unit::kMonths, step * count, end ? 31 : static_cast<int>(day_of_month(first))};
  };
  if (step >= 1 && integer && unit.empty()) return {Unit::kCount, step};
  if (step >= 1 && !integer) {
    if (is({"s", "S"})) return {Unit::kSeconds, step};
    if (is({"min", "T"})) return {Unit::kSeconds, step * 60};
    if (is({"h", "H"})) return {Unit::kSeconds, step * 3600};
    if (is({"D", "d"})) return {Unit::kSeconds, step * kDay};
    if (unit.starts_with("W")) return {Unit::kSeconds, step * 7 * kDay};
    if (is({"B"})) return {Unit::kBusinessDays, step};
    if (is({"MS"})) return months(1, false);
    if (is({"M", "ME"})) return months(1, true);
    if (is({"QS"})) return months(3, false);
    if (is({"Q", "QE"})) return months(3, true);
    if (is({"YS", "AS"})) return months(12, false);
    if (is({"Y", "YE", "A"})) return months(12, true);
  }
  fail(ErrorKind::kUsage, "--freq: got \"{}\", expected {}", text,
       integer ? "an integer, as the timestamps are integers"
               : "a pandas alias such as 15min, h, D, B, W, MS, ME, QS, YE");
}

}  // namespace carousel::forecast
