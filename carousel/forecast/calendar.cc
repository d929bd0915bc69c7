// SPDX-License-Identifier: Apache-2.0
// Steps through the calendar, and the inference of a step from times.
#include "carousel/forecast/calendar.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "carousel/core/error.h"
#include "carousel/forecast/dates.h"

namespace carousel::forecast {
namespace {

using Unit = Frequency::Unit;

// Half months: two days in each month, the first of them `low`, the second `high`.
struct HalfMonth {
  int64_t low, high;
};
HalfMonth halves_of(const Frequency& frequency, int64_t year, int64_t month) {
  if (frequency.ends) return {frequency.anchor_day, month_days(year, month)};
  return {1, frequency.anchor_day};
}

int64_t half_month_index(const Frequency& frequency, int64_t seconds) {
  const Date date = date_of(floor_div(seconds, kDaySeconds));
  return month_index(seconds) * 2 + (date.day >= halves_of(frequency, date.year, date.month).high ? 1 : 0);
}

int64_t day_in_month(const Frequency& frequency, int64_t year, int64_t month) {
  if (frequency.business) {
    return frequency.anchor_day == 1 ? first_business_day(year, month) : last_business_day(year, month);
  }
  return std::min<int64_t>(frequency.anchor_day, month_days(year, month));
}

// The commonest gap of whole months, where every time lies on the day `frequency` has in its month.
std::optional<Frequency> monthly_on(Frequency frequency, const SeriesTimes& series) {
  std::map<int64_t, int64_t> gaps;
  for (const auto& times : series) {
    for (size_t i = 0; i < times.size(); ++i) {
      const Date date = date_of(floor_div(times[i], kDaySeconds));
      if (date.day != day_in_month(frequency, date.year, date.month)) return std::nullopt;
      if (i == 0) continue;
      const int64_t gap = month_index(times[i]) - month_index(times[i - 1]);
      if (gap < 1) return std::nullopt;
      ++gaps[gap];
    }
  }
  int64_t best = 0;
  for (const auto& [gap, count] : gaps) {
    if (count <= best) continue;
    best = count;
    frequency.step = gap;
  }
  return frequency;
}

std::optional<Frequency> monthly(const SeriesTimes& series) {
  int64_t anchor = 0, clock = -1;
  bool ends = true;
  for (const auto& times : series) {
    for (const int64_t time : times) {
      anchor = std::max(anchor, day_of_month(time));
      ends = ends && is_month_end(time);
      if (clock < 0) clock = clock_of(time);
      if (clock_of(time) != clock) return std::nullopt;
    }
  }
  const int day = ends ? 31 : static_cast<int>(anchor);
  if (auto found = monthly_on({Unit::kMonths, 1, day}, series)) return found;
  if (auto found = monthly_on({Unit::kMonths, 1, 1, true}, series)) return found;
  return monthly_on({Unit::kMonths, 1, 31, true}, series);
}

// The days beside `frequency`'s first or last of the month, if they are all one; 0 where there is none, -1 where there
// are several.
int other_day(const Frequency& frequency, const SeriesTimes& series) {
  int other = 0;
  for (const auto& times : series) {
    for (const int64_t time : times) {
      if (clock_of(time) != clock_of(series[0][0])) return -1;
      const auto day = static_cast<int>(day_of_month(time));
      if (frequency.ends ? is_month_end(time) : day == 1) continue;
      if (other != 0 && other != day) return -1;
      other = day;
    }
  }
  return other;
}

// Two days of every month: the 1st and another one, or another one and the last.
std::optional<Frequency> half_monthly(const SeriesTimes& series) {
  const auto spans_months = [](const std::vector<int64_t>& times) {
    return times.size() > 2 && month_index(times.front()) != month_index(times.back());
  };
  if (std::none_of(series.begin(), series.end(), spans_months)) return std::nullopt;
  for (const bool ends : {false, true}) {
    Frequency frequency{Unit::kHalfMonths, 1, 0, false, ends};
    frequency.anchor_day = other_day(frequency, series);
    if (frequency.anchor_day >= 2 && frequency.anchor_day <= 27) return frequency;
  }
  return std::nullopt;
}

// Business days where the same number of them lies between all times, and not the same number of days.
std::optional<Frequency> several_business_days(const SeriesTimes& series) {
  int64_t step = 0, days = 0;
  bool weekend_skipped = false;
  for (const auto& times : series) {
    for (size_t i = 0; i < times.size(); ++i) {
      const int64_t day = floor_div(times[i], kDaySeconds);
      if (weekday(day) > 4 || clock_of(times[i]) != clock_of(times[0])) return std::nullopt;
      if (i == 0) continue;
      const int64_t before = floor_div(times[i - 1], kDaySeconds), gap = business_index(day) - business_index(before);
      if (step != 0 && gap != step) return std::nullopt;
      weekend_skipped = weekend_skipped || (days != 0 && day - before != days);
      step = gap;
      days = day - before;
    }
  }
  if (!weekend_skipped) return std::nullopt;
  return Frequency{Unit::kBusinessDays, step};
}

bool business_days(const SeriesTimes& series) {
  bool weekend_skipped = false;
  for (const auto& times : series) {
    for (size_t i = 0; i < times.size(); ++i) {
      const int64_t day = floor_div(times[i], kDaySeconds);
      if (weekday(day) > 4 || clock_of(times[i]) != clock_of(times[0])) return false;
      if (i > 0 && day - floor_div(times[i - 1], kDaySeconds) == 3) weekend_skipped = true;
    }
  }
  return weekend_skipped;
}

}  // namespace

int64_t Frequency::advance(int64_t from, int64_t count) const {
  int64_t moved = 0, to = 0;
  if (__builtin_mul_overflow(count, step, &moved) || __builtin_add_overflow(from, moved, &to)) {
    fail(ErrorKind::kInput, "forecast: {} steps of {} from {}, expected times within 64 bits", count, str(), from);
  }
  if (unit == Unit::kCount || unit == Unit::kSeconds) return to;
  const int64_t clock = clock_of(from);
  if (unit == Unit::kBusinessDays) {
    return business_day(business_index(floor_div(from, kDaySeconds)) + moved) * kDaySeconds + clock;
  }
  const int64_t half = unit == Unit::kHalfMonths ? half_month_index(*this, from) + moved : 0;
  const int64_t month = unit == Unit::kHalfMonths ? floor_div(half, 2) : month_index(from) + moved;
  const int64_t year = floor_div(month, 12), of_year = month - year * 12 + 1;
  int64_t day = 0;
  if (unit == Unit::kHalfMonths) {
    const HalfMonth days = halves_of(*this, year, of_year);
    day = half - 2 * month == 0 ? days.low : days.high;
  } else {
    day = day_in_month(*this, year, of_year);
  }
  return days_of({year, of_year, day}) * kDaySeconds + clock;
}

std::optional<int64_t> Frequency::steps(int64_t from, int64_t to) const {
  int64_t distance = 0;
  if (__builtin_sub_overflow(to, from, &distance)) return std::nullopt;
  if (unit == Unit::kMonths) distance = month_index(to) - month_index(from);
  if (unit == Unit::kHalfMonths) distance = half_month_index(*this, to) - half_month_index(*this, from);
  if (unit == Unit::kBusinessDays)
    distance = business_index(floor_div(to, kDaySeconds)) - business_index(floor_div(from, kDaySeconds));
  const int64_t count = floor_div(distance, step);
  if (advance(from, count) != to) return std::nullopt;
  return count;
}

std::string Frequency::str() const {
  const auto counted = [](int64_t count, const char* noun) {
    return count == 1 ? fmt::format("1 {}", noun) : fmt::format("{} {}s", count, noun);
  };
  if (unit == Unit::kMonths) return counted(step, "month");
  if (unit == Unit::kHalfMonths) return counted(step, "half month");
  if (unit == Unit::kBusinessDays) return counted(step, "business day");
  if (unit == Unit::kCount) return counted(step, "step");
  if (step % kDaySeconds == 0) return counted(step / kDaySeconds, "day");
  if (step % 3600 == 0) return counted(step / 3600, "hour");
  return step % 60 == 0 ? counted(step / 60, "minute") : counted(step, "second");
}

std::optional<Frequency> infer_frequency(const SeriesTimes& series, bool integer) {
  std::map<int64_t, int64_t> gaps;
  for (const auto& times : series) {
    for (size_t i = 1; i < times.size(); ++i) ++gaps[times[i] - times[i - 1]];
  }
  if (gaps.empty()) return std::nullopt;
  const auto commonest =
      std::max_element(gaps.begin(), gaps.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (integer) return Frequency{Unit::kCount, commonest->first};
  if (const auto found = monthly(series)) return found;
  if (const auto found = half_monthly(series)) return found;
  if (const auto found = several_business_days(series)) return found;
  if (commonest->first == kDaySeconds && business_days(series)) return Frequency{Unit::kBusinessDays, 1};
  return Frequency{Unit::kSeconds, commonest->first};
}

}  // namespace carousel::forecast
