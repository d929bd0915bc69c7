// SPDX-License-Identifier: Apache-2.0
// The step between the times of a series, and the later times. dates.h has the arithmetic of the calendar, alias.h
// pandas' names of steps.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "carousel/forecast/timestamp.h"

namespace carousel::forecast {

/// The step of a series.
struct Frequency {
  enum class Unit : uint8_t { kCount, kSeconds, kMonths, kBusinessDays, kHalfMonths };
  Unit unit = Unit::kCount;
  int64_t step = 1;
  /// kMonths: day of the month, the last one where a month is shorter; 31 is the month's end. kHalfMonths: the day
  /// beside the month's first or last one.
  int anchor_day = 1;
  /// kMonths: the first (anchor_day 1) or last (31) day of the month that is no weekend.
  bool business = false;
  /// kHalfMonths: the other day is the month's last day, not its first.
  bool ends = false;

  /// The time `steps` after `from`. Throws Error(kInput) where it is beyond 64 bits.
  int64_t advance(int64_t from, int64_t steps) const;
  /// The number of steps from `from` to `to`; nothing where it is no whole number.
  std::optional<int64_t> steps(int64_t from, int64_t to) const;
  std::string str() const;  // "3 months"
};

using SeriesTimes = std::vector<std::vector<int64_t>>;  // the times of each series, sorted and distinct

/// The step of the times: whole months where every time is the same day of its month, the month's last day, or its
/// first or last day that is no weekend; half months; business days where only weekends are left out; else the
/// commonest gap. Nothing where no series has two times.
std::optional<Frequency> infer_frequency(const SeriesTimes& series, bool integer);

}  // namespace carousel::forecast
