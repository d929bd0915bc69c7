// SPDX-License-Identifier: Apache-2.0
// Arithmetic of the proleptic Gregorian calendar: days since 1970-01-01, months since the year 0, business days.
// timestamp.h reads and writes times with it, calendar.h steps through it.
#pragma once

#include <cstdint>

namespace carousel::forecast {

constexpr int64_t kDaySeconds = 86400;
constexpr int64_t kMaxYear = 9999;

struct Date {
  int64_t year, month, day;  // months and days from 1
};

int64_t floor_div(int64_t a, int64_t b);  // b > 0

int64_t days_of(Date date);  // since 1970-01-01
Date date_of(int64_t days);
int64_t month_days(int64_t year, int64_t month);
bool is_date(Date date);  // years 1 to 9999

// These take a time in seconds since 1970-01-01.
int64_t month_index(int64_t seconds);  // months since January of the year 0
int64_t day_of_month(int64_t seconds);
bool is_month_end(int64_t seconds);
int64_t clock_of(int64_t seconds);  // seconds since midnight

int64_t weekday(int64_t days);  // takes days since 1970-01-01; Monday is 0
/// The number of a business day (Monday to Friday) since the first Monday after 1970-01-01; a weekend has its Friday's.
int64_t business_index(int64_t days);
int64_t business_day(int64_t index);  // days since 1970-01-01
/// The day of the month that is its first or last one outside weekends.
int64_t first_business_day(int64_t year, int64_t month);
int64_t last_business_day(int64_t year, int64_t month);

}  // namespace carousel::forecast
