// SPDX-License-Identifier: Apache-2.0
#include "carousel/forecast/series.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "carousel/core/error.h"

namespace carousel::forecast {
namespace {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();
using Names = std::initializer_list<std::string_view>;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

// Which column is what; -1: none.
struct Roles {
  int64_t id = -1, time = -1;
  std::vector<int64_t> values;
};

int64_t find_column(const formats::CsvTable& table, const std::string& name, const char* option) {
  if (const auto found = table.find(name)) return *found;
  std::string known;
  for (const std::string& header : table.header()) known += (known.empty() ? "" : ", ") + header;
  fail(ErrorKind::kInput, "{}: no column \"{}\", expected one of: {}", option, name,
       known.empty() ? "none, the table has no header" : known);
}

int64_t find_named(const formats::CsvTable& table, Names names) {
  for (size_t i = 0; i < table.header().size(); ++i) {
    if (std::find(names.begin(), names.end(), lower(table.header()[i])) != names.end()) return static_cast<int64_t>(i);
  }
  return -1;
}

// A column by its name, or the first whose first cell is a date; a count of steps needs a name.
int64_t find_time(const formats::CsvTable& table) {
  if (const int64_t named = find_named(table, {"ds", "timestamp", "date", "time", "datetime"}); named >= 0)
    return named;
  for (int64_t column = 0; column < table.columns(); ++column) {
    const auto time = parse_timestamp(table.cell(0, column));
    if (time && !time->style.integer) return column;
  }
  return -1;
}

Roles find_roles(const formats::CsvTable& table, const TableOptions& options) {
  Roles roles;
  roles.id = options.id_column.empty() ? find_named(table, {"unique_id", "item_id", "id"})
                                       : find_column(table, options.id_column, "--id-column");
  roles.time =
      options.time_column.empty() ? find_time(table) : find_column(table, options.time_column, "--time-column");
  for (const std::string& name : options.columns) roles.values.push_back(find_column(table, name, "--column"));
  if (!roles.values.empty()) return roles;
  const int64_t target = find_named(table, {"y", "target", "value"});
  if (roles.id >= 0 && target >= 0) {
    roles.values = {target};
    return roles;
  }
  for (int64_t column = 0; column < table.columns(); ++column) {
    if (column != roles.id && column != roles.time) roles.values.push_back(column);
  }
  if (roles.values.empty()) fail(ErrorKind::kInput, "{}: no column of values", table.place(0, 0));
  return roles;
}

std::string series_name(const formats::CsvTable& table, const Roles& roles, const std::string& id, int64_t column) {
  const std::string header =
      table.header().empty() ? fmt::format("series {}", column + 1) : table.header()[static_cast<size_t>(column)];
  if (roles.id < 0) return header;
  return roles.values.size() == 1 ? id : id + "/" + header;
}

// Rows of one id, with their times.
struct Group {
  std::string id;
  std::vector<std::pair<int64_t, int64_t>> rows;  // time, row
};

std::vector<Group> group_rows(const formats::CsvTable& table, const Roles& roles, TimeStyle& style) {
  std::vector<Group> groups;
  std::unordered_map<std::string, size_t> by_id;
  for (int64_t row = 0; row < table.rows(); ++row) {
    const std::string id = roles.id < 0 ? "" : std::string(table.cell(row, roles.id));
    const auto [it, fresh] = by_id.emplace(id, groups.size());
    if (fresh) groups.push_back({id, {}});
    Group& group = groups[it->second];
    int64_t time = static_cast<int64_t>(group.rows.size());
    if (roles.time >= 0) {
      const auto read = parse_timestamp(table.cell(row, roles.time));
      if (!read || (row > 0 && read->style.integer != style.integer)) {
        fail(ErrorKind::kInput, "{}: got \"{}\", expected a time such as 2016-07-01 13:00:00, 2016-07 or {}",
             table.place(row, roles.time), table.cell(row, roles.time).substr(0, 40),
             row > 0 ? "what the rows before have" : "an integer");
      }
      if (row == 0) style = read->style;
      style.clock = style.clock || read->style.clock;
      style.seconds = style.seconds || read->style.seconds;
      time = read->value;
    }
    group.rows.emplace_back(time, row);
  }
  for (Group& group : groups) {
    std::stable_sort(group.rows.begin(), group.rows.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 1; i < group.rows.size(); ++i) {
      if (group.rows[i].first != group.rows[i - 1].first) continue;
      fail(ErrorKind::kInput, "{}: the time \"{}\" is there already in line {}",
           table.place(group.rows[i].second, roles.time), table.cell(group.rows[i].second, roles.time).substr(0, 40),
           table.line(group.rows[i - 1].second));
    }
  }
  return groups;
}

Frequency find_frequency(const std::vector<Group>& groups, const TableOptions& options, const TimeStyle& style) {
  std::vector<std::vector<int64_t>> times;
  for (const Group& group : groups) {
    times.emplace_back();
    for (const auto& [time, row] : group.rows) times.back().push_back(time);
  }
  if (!options.frequency.empty()) return parse_frequency(options.frequency, times.front().front(), style.integer);
  if (const auto found = infer_frequency(times, style.integer)) return *found;
  if (style.integer) return {};
  fail(ErrorKind::kInput, "--freq: one time alone has no step; expected a frequency such as D or h");
}

}  // namespace

SeriesTable read_series(const formats::CsvTable& table, const TableOptions& options) {
  const Roles roles = find_roles(table, options);
  SeriesTable out;
  out.style.integer = true;
  const std::vector<Group> groups = group_rows(table, roles, out.style);
  out.frequency = find_frequency(groups, options, out.style);
  const auto header = [&](int64_t column) {
    return column < 0 || table.header().empty() ? "" : table.header()[static_cast<size_t>(column)];
  };
  out.id_column = header(roles.id);
  out.time_column = header(roles.time);
  for (const Group& group : groups) {
    const int64_t last = group.rows.back().first;
    for (const int64_t column : roles.values) {
      Series series;
      series.id = series_name(table, roles, group.id, column);
      for (auto it = group.rows.rbegin(); it != group.rows.rend(); ++it) {  // from the last one back
        const auto back = out.frequency.steps(it->first, last);
        if (!back) {
          fail(ErrorKind::kInput, "{}: the time \"{}\" is no whole number of steps of {} before \"{}\"",
               table.place(it->second, roles.time), table.cell(it->second, roles.time).substr(0, 40),
               out.frequency.str(), format_timestamp(last, out.style));
        }
        const double value = table.number(it->second, column);
        if (*back >= options.max_values) continue;
        series.values.resize(static_cast<size_t>(*back), kMissing);
        series.values.push_back(value);
      }
      std::reverse(series.values.begin(), series.values.end());
      series.start = out.frequency.advance(last, 1 - static_cast<int64_t>(series.values.size()));
      out.series.push_back(std::move(series));
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
