// SPDX-License-Identifier: Apache-2.0
// Which columns of a table hold the series' names, the times and the values. An index that pandas wrote beside the
// values, or a count of the rows, is never forecast.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/forecast/series.h"
#include "carousel/formats/csv.h"

namespace carousel::forecast {

/// The numbers of columns; -1: there is none.
struct Columns {
  int64_t id = -1;
  int64_t time = -1;
  bool time_is_index = false;  // the times are a count of the rows, and the column's name means nothing
  std::vector<int64_t> values;
};

/// Finds the columns by the options, else by the headers and the contents of `rows`. Notes say which columns were left
/// out or may be no series. Throws Error(kInput) for a column that is not there, where no column has values, and where
/// the times are spread over columns (year, month).
Columns find_columns(const formats::CsvTable& table, const std::vector<int64_t>& rows, const TableOptions& options,
                     std::vector<std::string>& notes);

/// "column 3 \"OT\"", for notes.
std::string column_name(const formats::CsvTable& table, int64_t column);

}  // namespace carousel::forecast
