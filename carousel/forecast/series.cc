// SPDX-License-Identifier: Apache-2.0
// Reads series from a table, puts them on their grid, and writes forecasts.
#include "carousel/forecast/series.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "carousel/core/error.h"
#include "carousel/forecast/alias.h"
#include "carousel/forecast/columns.h"
#include "carousel/forecast/time_column.h"

namespace carousel::forecast {
namespace {

constexpr int64_t kMostFilled = int64_t{1} << 25;  // steps of all series that the table leaves out
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
std::string series_name(const formats::CsvTable& table, const Columns& columns, const std::string& id, int64_t column) {
  const std::string header =
      table.header().empty() ? fmt::format("series {}", column + 1) : table.header()[static_cast<size_t>(column)];
  if (columns.id < 0) return header;
  return columns.values.size() == 1 ? id : id + "/" + header;
}

// Rows of one id, with their times.
struct Group {
  std::string id;
  std::vector<std::pair<int64_t, int64_t>> rows;  // time, row
};

// The rows that are not lines of delimiters alone, which spreadsheets write below a table: times tell the steps, so
// such a line has no meaning.
std::vector<int64_t> filled_rows(const formats::CsvTable& table) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < table.rows(); ++row) {
    bool filled = false;
    for (int64_t column = 0; column < table.columns() && !filled; ++column) filled = !table.cell(row, column).empty();
    if (filled) rows.push_back(row);
  }
  return rows;
}

std::vector<int64_t> all_rows(const formats::CsvTable& table) {
  std::vector<int64_t> rows(static_cast<size_t>(table.rows()));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

std::vector<Group> group_rows(const formats::CsvTable& table, const Columns& columns, const std::vector<int64_t>& rows,
                              const TimeColumn& times) {
  std::vector<Group> groups;
  std::unordered_map<std::string, size_t> by_id;
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::string id = columns.id < 0 ? "" : std::string(table.cell(rows[i], columns.id));
    const auto [it, fresh] = by_id.emplace(id, groups.size());
    if (fresh) groups.push_back({id, {}});
    Group& group = groups[it->second];
    group.rows.emplace_back(columns.time < 0 ? static_cast<int64_t>(group.rows.size()) : times.values[i], rows[i]);
  }
  for (Group& group : groups) {
    std::stable_sort(group.rows.begin(), group.rows.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 1; i < group.rows.size(); ++i) {
      if (group.rows[i].first != group.rows[i - 1].first) continue;
      fail(ErrorKind::kInput, "{}: the time \"{}\" is there already in line {}{}",
           table.place(group.rows[i].second, columns.time),
           table.cell(group.rows[i].second, columns.time).substr(0, 40), table.line(group.rows[i - 1].second),
           columns.id < 0 && table.columns() > 2 ? " (--id-column names the column that tells series apart)" : "");
    }
  }
  return groups;
}

bool is_integer(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

// Whether the ids do not name series: each of them is there once.
bool single_rows(const Columns& columns, const std::vector<Group>& groups) {
  return columns.id >= 0 && groups.size() > 1 &&
         std::all_of(groups.begin(), groups.end(), [](const Group& one) { return one.rows.size() == 1; });
}

Frequency find_frequency(const formats::CsvTable& table, const Columns& columns, const std::vector<Group>& groups,
                         const TableOptions& options, SeriesTable& out) {
  SeriesTimes times;
  for (const Group& group : groups) {
    times.emplace_back();
    for (const auto& [time, row] : group.rows) times.back().push_back(time);
  }
  if (columns.time < 0 && !options.frequency.empty() && options.frequency != "1") {
    fail(ErrorKind::kUsage, "--freq: got \"{}\", but the table has no column of times, expected --time-column with one",
         options.frequency);
  }
  const bool single = single_rows(columns, groups);
  if (!options.frequency.empty() || out.style.integer) {
    if (single) {
      out.notes.push_back(fmt::format("{} is taken for the names of {} series, and each has one row",
                                      column_name(table, columns.id), groups.size()));
    }
    if (!options.frequency.empty()) return parse_frequency(options.frequency, times, out.style, out.notes);
    return infer_frequency(times, true).value_or(Frequency{});
  }
  if (const auto found = infer_frequency(times, false)) return *found;
  if (single) {
    fail(ErrorKind::kInput,
         "{} is taken for the names of {} series, and each has one row; expected several rows of each, another "
         "--id-column, or --freq",
         table.place(groups.front().rows.front().second, columns.id), groups.size());
  }
  fail(ErrorKind::kInput, "--freq: one time alone has no step; expected a frequency such as D or h");
}

// The values of a group's rows, in their order.
std::vector<double> read_numbers(const formats::CsvTable& table, const Group& group, int64_t column) {
  std::vector<double> numbers;
  for (const auto& [time, row] : group.rows) {
    numbers.push_back(table.number(row, column));
    if (!std::isinf(static_cast<float>(numbers.back()))) continue;
    fail(ErrorKind::kInput, "{}: got \"{}\", expected a value within the range of float32", table.place(row, column),
         table.cell(row, column).substr(0, 40));
  }
  return numbers;
}

Series read_values(const formats::CsvTable& table, const Columns& columns, const Group& group, int64_t column,
                   const SeriesTable& out, int64_t max_values) {
  Series series;
  series.id = series_name(table, columns, group.id, column);
  const std::vector<double> numbers = read_numbers(table, group, column);
  const int64_t last = group.rows.back().first;
  for (size_t i = group.rows.size(); i-- > 0;) {  // from the last one back
    const auto& [time, row] = group.rows[i];
    const auto back = out.frequency.steps(time, last);
    if (!back) {
      fail(ErrorKind::kInput, "{}: the time \"{}\" is no whole number of steps of {} before \"{}\"",
           table.place(row, columns.time), table.cell(row, columns.time).substr(0, 40), out.frequency.str(),
           format_timestamp(last, out.style));
    }
    if (*back >= max_values) continue;
    series.values.resize(static_cast<size_t>(*back), kMissing);
    series.values.push_back(numbers[i]);
  }
  std::reverse(series.values.begin(), series.values.end());
  series.start = out.frequency.advance(last, 1 - static_cast<int64_t>(series.values.size()));
  return series;
}

}  // namespace

SeriesTable read_series(const formats::CsvTable& table, const TableOptions& options) {
  SeriesTable out;
  std::vector<int64_t> rows = filled_rows(table);
  if (rows.empty()) rows = all_rows(table);
  const Columns columns = find_columns(table, rows, options, out.notes);
  TimeColumn times;
  times.style.integer = true;
  if (columns.time < 0) {
    rows = all_rows(table);
  } else {
    times = read_times(table, columns.time, rows, is_integer(options.frequency));
  }
  out.style = times.style;
  const std::vector<Group> groups = group_rows(table, columns, rows, times);
  out.frequency = find_frequency(table, columns, groups, options, out);
  const auto header = [&](int64_t column) {
    return column < 0 || table.header().empty() ? "" : table.header()[static_cast<size_t>(column)];
  };
  out.id_column = header(columns.id);
  out.time_column = columns.time_is_index ? "" : header(columns.time);
  int64_t filled = 0;  // steps that the table leaves out
  for (const Group& group : groups) {
    for (const int64_t column : columns.values) {
      out.series.push_back(read_values(table, columns, group, column, out, options.max_values));
      filled += static_cast<int64_t>(out.series.back().values.size()) - std::ssize(group.rows);
      if (filled <= kMostFilled) continue;
      fail(ErrorKind::kInput, "{}: a grid with steps of {} leaves more than {} values out, expected a longer frequency",
           table.place(group.rows[0].second, columns.time), out.frequency.str(), kMostFilled);
    }
  }
  return out;
}

std::vector<double> select_quantiles(const std::vector<float>& values, const std::vector<double>& levels,
                                     const std::vector<double>& wanted) {
  constexpr double kSame = 1e-9;
  const size_t Q = levels.size();
  std::vector<double> out;
  for (size_t t = 0; t < values.size() / Q; ++t) {
    for (const double level : wanted) {
      size_t above = 0;
      while (above < Q && levels[above] < level - kSame) ++above;
      if (above == Q || (above == 0 && levels[0] > level + kSame)) {
        fail(ErrorKind::kUsage, "--quantiles: got {}, expected {} to {}", level, levels.front(), levels.back());
      }
      const auto high = static_cast<double>(values[t * Q + above]);
      if (levels[above] < level + kSame) {
        out.push_back(high);
        continue;
      }
      const auto low = static_cast<double>(values[t * Q + above - 1]);
      out.push_back(low + (high - low) * (level - levels[above - 1]) / (levels[above] - levels[above - 1]));
    }
  }
  return out;
}

std::string write_forecasts(const SeriesTable& table, const std::vector<SeriesForecast>& forecasts,
                            const std::vector<double>& levels, TableStyle style) {
  const bool nixtla = style == TableStyle::kNixtla;
  const std::string id = !table.id_column.empty() ? table.id_column : nixtla ? "unique_id" : "item_id";
  const std::string time = !table.time_column.empty() ? table.time_column : nixtla ? "ds" : "timestamp";
  std::string out = formats::csv_quoted(id) + "," + formats::csv_quoted(time);
  out += nixtla ? ",TiRex" : ",predictions";
  for (const double level : levels) {
    if (!nixtla) {
      out += fmt::format(",{}", level);
    } else if (std::abs(level - 0.5) < 1e-9) {
      out += ",TiRex-median";
    } else {
      const double width = std::round(std::abs(level - 0.5) * 2e6) / 1e4;  // percent between the two levels
      out += fmt::format(",TiRex-{}-{}", level < 0.5 ? "lo" : "hi", width);
    }
  }
  out += '\n';
  for (size_t s = 0; s < forecasts.size(); ++s) {
    const Series& series = table.series[s];
    const SeriesForecast& forecast = forecasts[s];
    const auto length = static_cast<int64_t>(series.values.size());
    for (size_t t = 0; t < forecast.median.size(); ++t) {
      const int64_t at = table.frequency.advance(series.start, length + static_cast<int64_t>(t));
      out += formats::csv_quoted(series.id) + "," + format_timestamp(at, table.style);
      out += fmt::format(",{}", static_cast<float>(forecast.median[t]));
      for (size_t q = 0; q < levels.size(); ++q) {
        out += fmt::format(",{}", static_cast<float>(forecast.quantiles[t * levels.size() + q]));
      }
      out += '\n';
    }
  }
  return out;
}

}  // namespace carousel::forecast
