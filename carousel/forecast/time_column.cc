// SPDX-License-Identifier: Apache-2.0
// Reads a column as times; the whole column decides what an ambiguous cell means.
#include "carousel/forecast/time_column.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/forecast/dates.h"

namespace carousel::forecast {
namespace {

constexpr size_t kShown = 40;
constexpr int kForms[] = {14, 12, 10, 8, 6, 4};  // digits
constexpr const char* kFormNames[] = {"YYYYMMDDHHMMSS", "YYYYMMDDHHMM", "YYYYMMDDHH", "YYYYMMDD", "YYYYMM", "YYYY"};

// Whether numbers of which most are dates are asked about. Seconds since 1970 have 10 digits too, and some spell an
// hour of the 19th century.
bool asks(int digits) { return digits != 10 && digits != 4; }

bool has_year_last(int64_t number) {
  const int64_t year = number % 10000, a = number / 1000000, b = number / 10000 % 100;
  return year >= 1800 && year <= 2200 && (is_date({year, a, b}) || is_date({year, b, a}));
}
bool has_short_year(int64_t number) {
  return number > 100000 && number < 1000000 && is_date({2000 + number / 10000, number / 100 % 100, number % 100});
}
bool all_are(const std::vector<int64_t>& numbers, bool (*is)(int64_t)) {
  return std::all_of(numbers.begin(), numbers.end(), is);
}

class Reader {
 public:
  Reader(const formats::CsvTable& table, int64_t column, const std::vector<int64_t>& rows, bool counted)
      : table_(table), column_(column), rows_(rows), counted_(counted) {}

  TimeColumn read() {
    for (const int64_t row : rows_) {
      const auto time = parse_timestamp(table_.cell(row, column_));
      if (!time) refuse(row);
      if (out_.values.empty()) {
        out_.style = time->style;
      } else {
        join(time->style, row);
      }
      out_.values.push_back(time->value);
    }
    if (out_.style.integer) find_digits();
    return std::move(out_);
  }

 private:
  std::string shown(int64_t row) const { return std::string(table_.cell(row, column_).substr(0, kShown)); }

  [[noreturn]] void refuse(int64_t row) const {
    if (const std::string hint = time_hint(table_.cell(row, column_)); !hint.empty())
      fail(ErrorKind::kInput, "{}: got \"{}\": {}", table_.place(row, column_), shown(row), hint);
    fail(ErrorKind::kInput, "{}: got \"{}\", expected a time such as 2016-07-01 13:00:00, 2016-07 or {}",
         table_.place(row, column_), shown(row), out_.values.empty() ? "an integer" : "what the rows before have");
  }

  // Another row's form: what is written in only some rows is written in all later ones.
  void join(const TimeStyle& style, int64_t row) {
    TimeStyle& own = out_.style;
    if (style.integer != own.integer || style.finest() != own.finest()) {
      // A date without a clock is midnight, as spreadsheets write it.
      const bool days = !style.integer && !own.integer && style.day && own.day;
      if (!days) refuse_mix(row, "the form");
    }
    if (style.offset.empty() != own.offset.empty() || offset_minutes(style.offset) != offset_minutes(own.offset))
      refuse_mix(row, "the offset from UTC (one for all rows, so times in UTC where it changes)");
    own.decimal = own.decimal || style.decimal;
    own.clock = own.clock || style.clock;
    own.seconds = own.seconds || style.seconds;
    own.fraction = std::max(own.fraction, style.fraction);
    own.padded = own.padded && style.padded;
  }

  [[noreturn]] void refuse_mix(int64_t row, const char* what) const {
    fail(ErrorKind::kInput, "{}: got \"{}\" after \"{}\" in line {}, expected {} of the rows before",
         table_.place(row, column_), shown(row), shown(rows_.front()), table_.line(rows_.front()), what);
  }

  void find_digits() {
    for (size_t form = 0; form < std::size(kForms); ++form) {
      const int digits = kForms[form];
      if (counted_ && digits == 4) break;  // a year more is one more
      size_t dates = 0, first_date = 0, first_other = rows_.size();
      for (size_t i = 0; i < rows_.size(); ++i) {
        if (date_of_digits(out_.values[i], digits)) {
          if (dates++ == 0) first_date = i;
        } else if (first_other == rows_.size()) {
          first_other = i;
        }
      }
      if (dates == rows_.size()) {
        take_digits(digits);
        return;
      }
      if (counted_ || !asks(digits) || dates * 2 < rows_.size()) continue;
      fail(ErrorKind::kInput,
           "{}: got \"{}\", no date as \"{}\" in line {} is, expected {} in every row (or an integer --freq: the times "
           "are counts)",
           table_.place(rows_[first_other], column_), shown(rows_[first_other]), shown(rows_[first_date]),
           table_.line(rows_[first_date]), kFormNames[form]);
    }
    if (!counted_) refuse_other_orders();
  }

  void take_digits(int digits) {
    out_.style.integer = false;
    out_.style.digits = digits;
    out_.style.day = digits >= 8;
    for (int64_t& value : out_.values) value = *date_of_digits(value, digits);
  }

  // 31012020 and 210131 count on past the ends of months.
  void refuse_other_orders() const {
    const bool last = all_are(out_.values, has_year_last);
    if (!last && !all_are(out_.values, has_short_year)) return;
    fail(ErrorKind::kInput,
         "{}: got \"{}\", which may be a date with {}, expected YYYYMMDD (or an integer --freq: the times are counts)",
         table_.place(rows_.front(), column_), shown(rows_.front()), last ? "its year last" : "a year of two digits");
  }

  const formats::CsvTable& table_;
  const int64_t column_;
  const std::vector<int64_t>& rows_;
  const bool counted_;
  TimeColumn out_;
};

}  // namespace

TimeColumn read_times(const formats::CsvTable& table, int64_t column, const std::vector<int64_t>& rows, bool counted) {
  return Reader(table, column, rows, counted).read();
}

std::vector<int64_t> whole_numbers(const formats::CsvTable& table, int64_t column, const std::vector<int64_t>& rows) {
  std::vector<int64_t> numbers;
  for (const int64_t row : rows) {
    const auto time = parse_timestamp(table.cell(row, column));
    if (!time || !time->style.integer) return {};
    numbers.push_back(time->value);
  }
  return numbers;
}

bool may_be_dates(const std::vector<int64_t>& numbers, int least) {
  if (numbers.empty()) return false;
  for (const int digits : kForms) {
    if (digits < least) break;
    const auto dates = std::count_if(numbers.begin(), numbers.end(),
                                     [&](int64_t number) { return date_of_digits(number, digits).has_value(); });
    const auto count = static_cast<std::ptrdiff_t>(numbers.size());
    if (dates == count || (asks(digits) && dates * 2 >= count)) return true;
  }
  return numbers.size() > 1 && (all_are(numbers, has_year_last) || all_are(numbers, has_short_year));
}

}  // namespace carousel::forecast
