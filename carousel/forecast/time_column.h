// SPDX-License-Identifier: Apache-2.0
// A column of a table as times. One cell cannot tell whether 202012 is a month or a count; the whole column can.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/forecast/timestamp.h"
#include "carousel/formats/csv.h"

namespace carousel::forecast {

struct TimeColumn {
  std::vector<int64_t> values;  // [rows]
  TimeStyle style;
};

/// The times of `rows`. Integers that all spell dates (20200131, 202001, 2020) are dates; where most do and some do
/// not, or all look like dates in another order, that is an error, unless `counted`: the user says that they are
/// counts. Throws Error(kInput) naming line and column, also for a mix of forms or of offsets from UTC.
TimeColumn read_times(const formats::CsvTable& table, int64_t column, const std::vector<int64_t>& rows, bool counted);

/// The whole numbers of a column; empty where some cell is none.
std::vector<int64_t> whole_numbers(const formats::CsvTable& table, int64_t column, const std::vector<int64_t>& rows);
/// Whether whole numbers are to be read as times though no name says so. All of them spell dates of `digits` or more,
/// or most do, or they may in another order; read_times() refuses the second and the third kind.
bool may_be_dates(const std::vector<int64_t>& numbers, int digits);

}  // namespace carousel::forecast
