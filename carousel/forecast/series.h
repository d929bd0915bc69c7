// SPDX-License-Identifier: Apache-2.0
// Series from a table and forecasts to one. Long tables (id, time, value: Nixtla's unique_id, ds, y; Chronos' item_id,
// timestamp, target) and wide ones (time, then a column per series) are told by their columns.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/forecast/calendar.h"
#include "carousel/formats/csv.h"

namespace carousel::forecast {

struct Series {
  std::string id;
  std::vector<double> values;  // NaN: missing, or a step the table leaves out
  int64_t start = 0;           // time of the first value
};

struct TableOptions {
  std::vector<std::string> columns;               // columns of values; empty: told by name, or all the others
  std::string id_column, time_column, frequency;  // empty: told by name; the frequency is inferred
  int64_t max_values = 1 << 20;                   // most values of a series; the last ones are kept
};

struct SeriesTable {
  std::vector<Series> series;  // in the order the table first names them
  std::string id_column;       // the header's name; empty in a table without ids
  std::string time_column;     // empty: steps are counted from 0
  TimeStyle style;
  Frequency frequency;
  std::vector<std::string> notes;  // lines on columns and rows that were left out, or whose meaning was guessed
};

/// Reads the series of a table, sorts each by time and puts it on its grid; gaps become missing values. With an integer
/// frequency integer times are counts, whatever dates they may spell. Throws Error(kInput) naming line and column: a
/// time that cannot be read, twice or off the grid, a column that is not there, a value that is no number or none of
/// float32.
SeriesTable read_series(const formats::CsvTable& table, const TableOptions& options);

/// Quantiles `wanted` of a forecast [H, levels], between its levels by linear interpolation: [H, wanted].
std::vector<double> select_quantiles(const std::vector<float>& values, const std::vector<double>& levels,
                                     const std::vector<double>& wanted);

enum class TableStyle { kChronos, kNixtla };
struct SeriesForecast {
  std::vector<double> median;     // [H]
  std::vector<double> quantiles;  // [H, levels]
};
/// Chronos: item_id, timestamp, target_name, predictions, 0.1, ...; Nixtla: unique_id, ds, TiRex, TiRex-lo-80, ...,
/// TiRex-hi-80. Names of the table's own id and time columns are kept. Numbers read back to the same f32.
std::string write_forecasts(const SeriesTable& table, const std::vector<SeriesForecast>& forecasts,
                            const std::vector<double>& levels, TableStyle style);

}  // namespace carousel::forecast
