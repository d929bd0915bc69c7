// SPDX-License-Identifier: Apache-2.0
#include "carousel/formats/csv.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/core/json.h"

namespace carousel::formats {
namespace {

constexpr std::string_view kBom = "\xEF\xBB\xBF";
constexpr std::string_view kSpaces = " \t";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

// The delimiter the first line has most of, outside quotes; the comma when it has none.
char find_delimiter(std::string_view text) {
  constexpr std::string_view kDelimiters = ",;\t";
  std::array<size_t, 3> counts{};
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    if (quoted) continue;
    if (c == '\n' || c == '\r') {
      if (counts != std::array<size_t, 3>{}) break;
      continue;
    }
    if (const size_t i = kDelimiters.find(c); i != kDelimiters.npos) ++counts[i];
  }
  return kDelimiters[static_cast<size_t>(std::max_element(counts.begin(), counts.end()) - counts.begin())];
}

bool same_word(std::string_view a, std::string_view lower) {
  return a.size() == lower.size() && std::equal(a.begin(), a.end(), lower.begin(), [](char x, char y) {
           return (x >= 'A' && x <= 'Z' ? static_cast<char>(x - 'A' + 'a') : x) == y;
         });
}

std::string shortened(std::string_view text) {
  constexpr size_t kShown = 40;
  return text.size() <= kShown ? std::string(text) : std::string(text.substr(0, kShown)) + "...";
}

}  // namespace

bool csv_missing(std::string_view cell) {
  const std::string_view text = trimmed(cell);
  return text.empty() || same_word(text, "na") || same_word(text, "n/a") || same_word(text, "nan") ||
         same_word(text, "null") || same_word(text, "none");
}

std::optional<double> csv_number(std::string_view cell) {
  if (csv_missing(cell)) return std::numeric_limits<double>::quiet_NaN();
  std::string_view text = trimmed(cell);
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::string csv_quoted(std::string_view cell) {
  const bool plain = cell.find_first_of(",;\t\"\r\n") == cell.npos && trimmed(cell) == cell && !cell.starts_with(kBom);
  if (plain) return std::string(cell);
  std::string quoted = "\"";
  for (const char c : cell) {
    if (c == '"') quoted += '"';
    quoted += c;
  }
  return quoted + "\"";
}

CsvTable CsvTable::open(const std::string& path, const CsvOptions& options) {
  return parse(read_text_file(path, options.max_bytes), path, options);
}

CsvTable CsvTable::parse(std::string_view text, const std::string& where, const CsvOptions& options) {
  if (text.size() > options.max_bytes) {
    fail(ErrorKind::kInput, "{}: {} bytes, expected at most {}", where, text.size(), options.max_bytes);
  }
  if (text.starts_with(kBom)) text.remove_prefix(kBom.size());
  CsvTable table;
  table.where_ = where;
  table.read(text, options);
  if (table.lines_.empty()) fail(ErrorKind::kInput, "{}: no rows", where);
  const bool header = options.header == CsvOptions::Header::kYes ||
                      (options.header == CsvOptions::Header::kAuto && table.first_row_is_header());
  if (header) table.take_header();
  if (table.lines_.empty()) fail(ErrorKind::kInput, "{}: no rows below the header", where);
  return table;
}

// One pass over the bytes. A cell is what lies between delimiters; a quoted one may hold anything, "" being a quote.
void CsvTable::read(std::string_view text, const CsvOptions& options) {
  const char delimiter = find_delimiter(text);
  text_.reserve(text.size());
  int64_t line = 1;
  for (size_t i = 0; i < text.size();) {
    const int64_t row_line = line;
    bool quoted = false;  // a row that holds just "" has a missing value, a blank line has none
    for (bool more = true; more;) {
      const size_t begin = text_.size();
      while (i < text.size() && text[i] == ' ') ++i;
      if (i < text.size() && text[i] == '"') {
        const int64_t quote_line = line;
        quoted = true;
        for (++i;; ++i) {
          if (i >= text.size()) fail(ErrorKind::kInput, "{}:{}: a quoted cell is never closed", where_, quote_line);
          if (text[i] == '"' && (++i >= text.size() || text[i] != '"')) break;
          if (text[i] == '\n') ++line;
          text_ += text[i];
        }
        while (i < text.size() && text[i] == ' ') ++i;
        if (i < text.size() && text[i] != delimiter && text[i] != '\r' && text[i] != '\n') {
          fail(ErrorKind::kInput, "{}:{}: text after a closing quote", where_, line);
        }
        cells_.push_back({begin, text_.size() - begin});
      } else {
        const size_t start = i;
        while (i < text.size() && text[i] != delimiter && text[i] != '\r' && text[i] != '\n') ++i;
        const std::string_view cell = trimmed(text.substr(start, i - start));
        if (cell.find('\0') != cell.npos) fail(ErrorKind::kInput, "{}:{}: a NUL byte, expected text", where_, line);
        text_ += cell;
        cells_.push_back({begin, cell.size()});
      }
      more = i < text.size() && text[i] == delimiter;
      if (more) ++i;
    }
    if (i < text.size() && text[i] == '\r') ++i;
    if (i < text.size() && text[i] == '\n') ++i;
    ++line;
    end_row(row_line, quoted, options);
  }
}

// Drops a blank line; the first row decides the width of all.
void CsvTable::end_row(int64_t line, bool quoted, const CsvOptions& options) {
  const size_t before = lines_.size() * static_cast<size_t>(columns_);
  const size_t width = cells_.size() - before;
  if (width == 1 && cells_.back().size == 0 && !quoted) {
    cells_.pop_back();
    return;
  }
  if (lines_.empty()) {
    if (width > options.max_columns) {
      fail(ErrorKind::kInput, "{}:{}: {} columns, expected at most {}", where_, line, width, options.max_columns);
    }
    columns_ = static_cast<int64_t>(width);
  } else if (static_cast<int64_t>(width) != columns_) {
    fail(ErrorKind::kInput, "{}:{}: {} cells, expected {} as in the first row", where_, line, width, columns_);
  }
  lines_.push_back(line);
}

bool CsvTable::first_row_is_header() const {
  for (int64_t column = 0; column < columns_; ++column) {
    const std::string_view text = cell(0, column);
    if (csv_missing(text) || csv_number(text)) continue;
    if (std::string_view("0123456789+-.").find(text[0]) == std::string_view::npos) return true;
  }
  return false;
}

void CsvTable::take_header() {
  for (int64_t column = 0; column < columns_; ++column) header_.emplace_back(cell(0, column));
  cells_.erase(cells_.begin(), cells_.begin() + columns_);
  lines_.erase(lines_.begin());
}

std::string_view CsvTable::cell(int64_t row, int64_t column) const {
  const Cell& found = cells_[static_cast<size_t>(row * columns_ + column)];
  return std::string_view(text_).substr(found.begin, found.size);
}

std::optional<int64_t> CsvTable::find(std::string_view name) const {
  const auto it = std::find(header_.begin(), header_.end(), name);
  if (it == header_.end()) return std::nullopt;
  return it - header_.begin();
}

std::string CsvTable::place(int64_t row, int64_t column) const {
  std::string text = fmt::format("{}:{}: column {}", where_, line(row), column + 1);
  if (!header_.empty()) text += fmt::format(" \"{}\"", shortened(header_[static_cast<size_t>(column)]));
  return text;
}

double CsvTable::number(int64_t row, int64_t column) const {
  const std::optional<double> value = csv_number(cell(row, column));
  if (!value) {
    fail(ErrorKind::kInput, "{}: got \"{}\", expected a finite number or a missing value", place(row, column),
         shortened(cell(row, column)));
  }
  return *value;
}

}  // namespace carousel::formats
