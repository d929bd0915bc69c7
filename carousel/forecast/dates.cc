// SPDX-License-Identifier: Apache-2.0
// Days, months and business days from dates, and back.
#include "carousel/forecast/dates.h"

#include <algorithm>

namespace carousel::forecast {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// Eras of 400 years, years that begin in March.
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

bool is_date(Date date) {
  return date.year >= 1 && date.year <= kMaxYear && date.month >= 1 && date.month <= 12 && date.day >= 1 &&
         date.day <= month_days(date.year, date.month);
}

int64_t month_index(int64_t seconds) {
  const Date date = date_of(floor_div(seconds, kDaySeconds));
  return date.year * 12 + date.month - 1;
}

int64_t day_of_month(int64_t seconds) { return date_of(floor_div(seconds, kDaySeconds)).day; }

bool is_month_end(int64_t seconds) {
  const Date date = date_of(floor_div(seconds, kDaySeconds));
  return date.day == month_days(date.year, date.month);
}

int64_t clock_of(int64_t seconds) { return seconds - floor_div(seconds, kDaySeconds) * kDaySeconds; }

int64_t weekday(int64_t days) { return days + 3 - floor_div(days + 3, 7) * 7; }

int64_t business_index(int64_t days) {
  const int64_t week = floor_div(days - 4, 7);
  return week * 5 + std::min<int64_t>(4, days - 4 - week * 7);
}

int64_t business_day(int64_t index) {
  const int64_t week = floor_div(index, 5);
  return 4 + week * 7 + index - week * 5;
}

int64_t first_business_day(int64_t year, int64_t month) {
  const int64_t day = weekday(days_of({year, month, 1}));
  return day == 5 ? 3 : day == 6 ? 2 : 1;
}

int64_t last_business_day(int64_t year, int64_t month) {
  const int64_t last = month_days(year, month);
  return last - std::max<int64_t>(0, weekday(days_of({year, month, last})) - 4);
}

}  // namespace carousel::forecast
