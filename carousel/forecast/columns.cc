// SPDX-License-Identifier: Apache-2.0
// Chooses the columns of ids, times and values by options, names and contents.
#include "carousel/forecast/columns.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/forecast/time_column.h"

namespace carousel::forecast {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::string_view kIds[] = {"unique_id", "item_id", "id"};
constexpr std::string_view kTimes[] = {"ds",    "timestamp", "date",      "time",     "datetime",
                                       "epoch", "unixtime",  "unix_time", "date_time"};
constexpr std::string_view kTargets[] = {"y", "target", "value"};
// Names of columns whose whole numbers are times where they all spell dates.
constexpr std::string_view kPeriods[] = {"month", "year", "period", "day", "yearmonth", "year_month", "yyyymm"};
constexpr std::string_view kCounts[] = {"index", "idx", "row",     "rownum", "row_number", "row_id",
                                        "rowid", "no",  "level_0", "#",      "rownames"};

// Parts of a time, which are no time alone.
struct Part {
  std::string_view name;
  int64_t least, most;
};
constexpr Part kParts[] = {{"year", 1583, 2999}, {"quarter", 1, 4},     {"quarter", 18001, 22004},
                           {"month", 1, 12},     {"week", 0, 53},       {"week", 180000, 220053},
                           {"weekday", 0, 7},    {"dayofweek", 0, 7},   {"day_of_week", 0, 7},
                           {"day", 1, 31},       {"dayofyear", 1, 366}, {"day_of_year", 1, 366},
                           {"hour", 0, 24}};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

bool is_one_of(Names names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Finder {
 public:
  Finder(const formats::CsvTable& table, const std::vector<int64_t>& rows, const TableOptions& options,
         std::vector<std::string>& notes)
      : table_(table), rows_(rows), options_(options), notes_(notes) {}

  Columns find() {
    out_.id = options_.id_column.empty() ? named(kIds) : given(options_.id_column, "--id-column");
    out_.time = options_.time_column.empty() ? find_time() : given(options_.time_column, "--time-column");
    find_counts();
    find_values();
    return std::move(out_);
  }

 private:
  std::string header(int64_t column) const {
    return table_.header().empty() ? "" : lower(table_.header()[static_cast<size_t>(column)]);
  }
  std::vector<int64_t> numbers(int64_t column) const { return whole_numbers(table_, column, rows_); }
  bool is_count(int64_t column) const { return std::find(counts_.begin(), counts_.end(), column) != counts_.end(); }

  int64_t given(const std::string& name, const char* option) const {
    if (const auto found = table_.find(name)) return *found;
    std::string known;
    for (const std::string& one : table_.header()) known += (known.empty() ? "" : ", ") + one;
    fail(ErrorKind::kInput, "{}: no column \"{}\", expected one of: {}", option, name,
         known.empty() ? "none, the table has no header" : known);
  }

  int64_t named(Names names) const {
    for (int64_t column = 0; column < table_.columns() && !table_.header().empty(); ++column) {
      if (is_one_of(names, header(column))) return column;
    }
    return -1;
  }

  // A column by its name, the first whose first cell is a date, or whole numbers that spell dates: in the table's first
  // column, or in one with a name of the calendar.
  int64_t find_time() const {
    if (const int64_t found = named(kTimes); found >= 0) return found;
    for (int64_t column = 0; column < table_.columns(); ++column) {
      const auto time = parse_timestamp(table_.cell(rows_.front(), column));
      if (time && !time->style.integer) return column;
    }
    int64_t first = 0;
    while (first < table_.columns() && (first == out_.id || is_unnamed(first) || is_count_name(first))) ++first;
    for (int64_t column = 0; column < table_.columns() && table_.columns() > 1; ++column) {
      const bool period = is_one_of(kPeriods, header(column));
      if (column == out_.id || (column != first && !period) || is_one_of(kTargets, header(column))) continue;
      if (is_part_of_time(column)) continue;
      const std::vector<int64_t> spelled = numbers(column);
      if ((out_.id >= 0 || all_differ(spelled)) && may_be_dates(spelled, period ? 4 : 6)) return column;
    }
    return -1;
  }

  bool is_count_name(int64_t column) const { return is_one_of(kCounts, header(column)); }
  // A year alone is a time where each is there once.
  bool is_part_of_time(int64_t column) const {
    const auto has_name = [&](const Part& part) { return part.name == header(column); };
    if (std::none_of(std::begin(kParts), std::end(kParts), has_name)) return false;
    const std::vector<int64_t> all = numbers(column);
    if (all.empty() || (header(column) == "year" && (out_.id >= 0 || all_differ(all)))) return false;
    return std::any_of(std::begin(kParts), std::end(kParts), [&](const Part& part) {
      return part.name == header(column) && std::all_of(all.begin(), all.end(), [&](int64_t number) {
               return number >= part.least && number <= part.most;
             });
    });
  }
  bool is_unnamed(int64_t column) const { return header(column).starts_with("unnamed: "); }
  static bool all_differ(const std::vector<int64_t>& numbers) {
    return std::set<int64_t>(numbers.begin(), numbers.end()).size() == numbers.size();
  }
  static bool rises_evenly(const std::vector<int64_t>& numbers) {
    for (size_t i = 1; i < numbers.size(); ++i) {
      if (numbers[i] - numbers[i - 1] != numbers[1] - numbers[0]) return false;
    }
    return numbers.size() > 1 && numbers[1] > numbers[0];
  }
  // 0, 1, 2, ... from anywhere, up or down.
  static bool counts_rows(std::vector<int64_t> numbers) {
    if (numbers.size() > 1 && numbers[0] > numbers[1]) std::reverse(numbers.begin(), numbers.end());
    return rises_evenly(numbers) && numbers[1] - numbers[0] == 1;
  }

  // Columns that count the rows are set aside; the first is the times where there are no others.
  void find_counts() {
    if (options_.id_column.empty() && out_.id >= 0 && header(out_.id) == "id" && numbers_rows(out_.id)) {
      notes_.push_back(fmt::format("{} numbers the rows and names no series; --id-column {} would make it name them",
                                   column_name(table_, out_.id), table_.header()[static_cast<size_t>(out_.id)]));
      counts_.push_back(out_.id);
      out_.id = -1;
    }
    for (int64_t column = 0; column < table_.columns(); ++column) {
      if (column == out_.id || column == out_.time || is_count(column)) continue;
      if (is_unnamed(column) ? is_index(column) : is_count_name(column) && counts_rows(numbers(column)))
        counts_.push_back(column);
    }
    if (out_.time >= 0 || out_.id >= 0 || counts_.empty() || !counts_rows(numbers(counts_.front()))) return;
    out_.time = counts_.front();
    out_.time_is_index = true;
  }

  // A key of the rows: whole numbers, each once, beside times that are there once too.
  bool numbers_rows(int64_t column) const {
    const std::vector<int64_t> all = numbers(column);
    return all.size() > 1 && all_differ(all) && times_differ();
  }

  // Of a frame's index, whose header pandas leaves empty: whole numbers, each once. Or a delimiter too many.
  bool is_index(int64_t column) const {
    const std::vector<int64_t> all = numbers(column);
    if (!all.empty()) return all_differ(all);
    return std::all_of(rows_.begin(), rows_.end(), [&](int64_t row) { return table_.cell(row, column).empty(); });
  }

  bool times_differ() const {
    if (out_.time < 0) return true;
    std::set<std::string_view> seen;
    for (const int64_t row : rows_) seen.insert(table_.cell(row, out_.time));
    return seen.size() == rows_.size();
  }

  void find_values() {
    for (const std::string& name : options_.columns) out_.values.push_back(given(name, "--column"));
    if (!out_.values.empty()) return;
    if (const int64_t target = named(kTargets); out_.id >= 0 && target >= 0) {
      out_.values = {target};
      return;
    }
    for (int64_t column = 0; column < table_.columns(); ++column) {
      if (column != out_.id && column != out_.time && !is_count(column)) out_.values.push_back(column);
    }
    if (out_.values.empty()) fail(ErrorKind::kInput, "{}: no column of values", table_.place(0, 0));
    if (table_.columns() > 1) check_values();
  }

  // Values that look like a time or a count.
  void check_values() {
    for (const int64_t column : out_.values) {
      if (!is_part_of_time(column)) {
        if (column != 0 || out_.time >= 0 || rows_.size() < 3 || !rises_evenly(numbers(column))) continue;
        notes_.push_back(
            fmt::format("{} rises by the same step in every row and is forecast like the others; "
                        "--time-column makes it the times, --column names the values",
                        column_name(table_, column)));
      } else if (out_.time < 0) {
        fail(ErrorKind::kInput,
             "{}: \"{}\" is a part of a time, expected one column of times such as 2020-01, or --column with the names "
             "of the values",
             table_.place(rows_.front(), column), table_.cell(rows_.front(), column));
      } else {
        notes_.push_back(
            fmt::format("{} is forecast like the others; --column names the values", column_name(table_, column)));
      }
    }
  }

  const formats::CsvTable& table_;
  const std::vector<int64_t>& rows_;
  const TableOptions& options_;
  std::vector<std::string>& notes_;
  Columns out_;
  std::vector<int64_t> counts_;  // columns that count the rows
};

}  // namespace

std::string column_name(const formats::CsvTable& table, int64_t column) {
  if (table.header().empty()) return fmt::format("column {}", column + 1);
  return fmt::format("column {} \"{}\"", column + 1, table.header()[static_cast<size_t>(column)]);
}

Columns find_columns(const formats::CsvTable& table, const std::vector<int64_t>& rows, const TableOptions& options,
                     std::vector<std::string>& notes) {
  return Finder(table, rows, options, notes).find();
}

}  // namespace carousel::forecast
