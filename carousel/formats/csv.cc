// SPDX-License-Identifier: Apache-2.0
// Reads CSV text in one pass over its bytes: delimiter, quoting, header, missing values, numbers.
#include "carousel/formats/csv.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

constexpr std::string_view kBom = "\xEF\xBB\xBF";
constexpr std::string_view kSpaces = " \t";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

bool same_word(std::string_view a, std::string_view lower) {
  return a.size() == lower.size() && std::equal(a.begin(), a.end(), lower.begin(), [](char x, char y) {
           return (x >= 'A' && x <= 'Z' ? static_cast<char>(x - 'A' + 'a') : x) == y;
         });
}

// Reads "sep=;" in the first line, which spreadsheets read and write, and removes the line from `text`.
std::optional<char> take_separator_line(std::string_view& text) {
  const size_t end = std::min(text.find_first_of("\r\n"), text.size());
  std::string_view line = text.substr(0, end);
  if (line.size() > 2 && line.front() == '"' && line.back() == '"') line = line.substr(1, line.size() - 2);
  if (line.size() != 5 || !same_word(line.substr(0, 4), "sep=")) return std::nullopt;
  if (std::string_view(",;\t|:^~").find(line[4]) == std::string_view::npos) return std::nullopt;
  text.remove_prefix(end);
  return line[4];
}

// How often each delimiter stands in a line, outside quotes. A tab after another tab is alignment.
constexpr std::string_view kDelimiters = ";\t,";
using Counts = std::array<size_t, kDelimiters.size()>;

// The counts of the first lines that are not blank.
std::vector<Counts> count_delimiters(std::string_view text) {
  constexpr size_t kLines = 20;
  std::vector<Counts> lines;
  Counts counts{};
  bool quoted = false, blank = true;
  for (size_t i = 0; i <= text.size() && lines.size() < kLines; ++i) {
    const char c = i < text.size() ? text[i] : '\n';
    if (c == '"') quoted = !quoted;
    if (quoted) continue;
    if (c == '\n' || c == '\r') {
      if (!blank) lines.push_back(counts);
      counts = {};
      blank = true;
      continue;
    }
    if (c != ' ') blank = false;
    const size_t place = kDelimiters.find(c);
    const bool alignment = c == '\t' && i > 0 && (text[i - 1] == ',' || text[i - 1] == ';');
    if (place != kDelimiters.npos && !alignment) ++counts[place];
  }
  return lines;
}

// The delimiter: the first of `;`, tab and comma of which every line has the same number (a comma beside another one is
// a decimal comma). If there is none, the one that the first line has most of; the comma where the line has none.
char find_delimiter(std::string_view text, char decimal) {
  const std::vector<Counts> lines = count_delimiters(text);
  for (size_t i = 0; i < kDelimiters.size() && !lines.empty(); ++i) {
    const auto as_first = [&](const Counts& line) { return line[i] == lines[0][i]; };
    if (kDelimiters[i] == decimal || lines[0][i] == 0) continue;
    if (std::all_of(lines.begin(), lines.end(), as_first)) return kDelimiters[i];
  }
  size_t best = decimal == ',' ? 0 : kDelimiters.size() - 1;
  for (size_t i = kDelimiters.size(); i-- > 0 && !lines.empty();) {
    if (kDelimiters[i] != decimal && lines[0][i] > lines[0][best]) best = i;
  }
  return kDelimiters[best];
}

// Refuses a file in another encoding, told by its byte order mark.
void check_encoding(std::string_view text, const std::string& where) {
  const bool big = text.starts_with("\xFE\xFF") || text.starts_with(std::string_view("\0\0\xFE\xFF", 4));
  if (!big && !text.starts_with("\xFF\xFE")) return;
  fail(ErrorKind::kInput, "{}:1: {}, expected UTF-8: save the table as \"CSV UTF-8\"", where,
       text.find(std::string_view("\0\0", 2)) < 4 ? "UTF-32" : "UTF-16");
}

// Reads a whole file, pipe or terminal, up to its end.
std::string read_all(const std::string& path, size_t max_bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) fail(ErrorKind::kIo, "{}: cannot open: {}", path, std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  while (const size_t count = std::fread(buffer, 1, sizeof buffer, file.get())) {
    text.append(buffer, count);
    if (text.size() > max_bytes) fail(ErrorKind::kInput, "{}: larger than {} bytes", path, max_bytes);
  }
  if (std::ferror(file.get())) fail(ErrorKind::kIo, "{}: cannot read: {}", path, std::strerror(errno));
  return text;
}

// Whether a number that no double holds is too small: it is then 0, as in every reader of CSV; too large is refused.
bool is_tiny(std::string_view text) {
  const size_t exponent = text.find_first_of("eE");
  if (exponent != text.npos) return text.substr(exponent + 1).starts_with('-');
  return text.find_first_of("123456789") > text.find('.');
}

std::string shortened(std::string_view text) {
  constexpr size_t kShown = 40;
  return text.size() <= kShown ? std::string(text) : std::string(text.substr(0, kShown)) + "...";
}

}  // namespace

// pandas' words; the ones that consist of letters count in any case.
bool csv_missing(std::string_view cell) {
  const std::string_view text = trimmed(cell);
  if (text.empty()) return true;
  for (const char* word : {"na", "n/a", "nan", "null", "none", "-nan", "#n/a", "#na", "#n/a n/a", "<na>", "1.#ind",
                           "-1.#ind", "1.#qnan", "-1.#qnan"}) {
    if (same_word(text, word)) return true;
  }
  return false;
}

std::optional<double> csv_number(std::string_view cell, char decimal) {
  if (csv_missing(cell)) return std::numeric_limits<double>::quiet_NaN();
  std::string_view text = trimmed(cell);
  std::string pointed;
  if (decimal != '.') {
    if (text.find('.') != text.npos) return std::nullopt;
    pointed = text;
    std::replace(pointed.begin(), pointed.end(), decimal, '.');
    text = pointed;
  }
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (end != text.data() + text.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range && is_tiny(text)) return 0.0;
  if (error != std::errc() || !std::isfinite(value)) return std::nullopt;
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
  return parse(read_all(path, options.max_bytes), path, options);
}

CsvTable CsvTable::parse(std::string_view text, const std::string& where, const CsvOptions& options) {
  if (text.size() > options.max_bytes) {
    fail(ErrorKind::kInput, "{}: {} bytes, expected at most {}", where, text.size(), options.max_bytes);
  }
  check_encoding(text, where);
  if (text.starts_with(kBom)) text.remove_prefix(kBom.size());
  CsvTable table;
  table.where_ = where;
  table.decimal_ = options.decimal;
  table.missing_ = options.missing;
  table.read(text, options);
  if (table.lines_.empty()) fail(ErrorKind::kInput, "{}: no rows", where);
  const bool header = options.header == CsvOptions::Header::kYes ||
                      (options.header == CsvOptions::Header::kAuto && table.first_row_is_header());
  if (header) table.take_header();
  if (table.lines_.empty()) fail(ErrorKind::kInput, "{}: no rows below the header", where);
  return table;
}

// One pass over the bytes. A cell is the text between delimiters; a quoted cell may hold anything, with "" for a quote.
void CsvTable::read(std::string_view text, const CsvOptions& options) {
  const std::optional<char> separator = take_separator_line(text);
  const char delimiter = separator ? *separator : find_delimiter(text, options.decimal);
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
          if (text[i] == '\0') fail(ErrorKind::kInput, "{}:{}: a NUL byte, expected text in UTF-8", where_, line);
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
        if (cell.find('\0') != cell.npos)
          fail(ErrorKind::kInput, "{}:{}: a NUL byte, expected text in UTF-8", where_, line);
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
  lines_.resize(filled_);
  cells_.resize(filled_ * static_cast<size_t>(columns_));
}

// Ends a row. Drops a blank line, and, above the first row with text, a line of delimiters alone; read() drops such
// lines below the last row. The first row decides the width of all.
void CsvTable::end_row(int64_t line, bool quoted, const CsvOptions& options) {
  const size_t before = lines_.size() * static_cast<size_t>(columns_);
  const size_t width = cells_.size() - before;
  if (width > options.max_columns) {
    fail(ErrorKind::kInput, "{}:{}: {} columns, expected at most {}", where_, line, width, options.max_columns);
  }
  const bool filled = quoted || std::any_of(cells_.begin() + static_cast<std::ptrdiff_t>(before), cells_.end(),
                                            [](const Cell& cell) { return cell.size > 0; });
  if (!filled && (width == 1 || lines_.empty())) {
    cells_.resize(before);
    return;
  }
  if (lines_.empty()) columns_ = static_cast<int64_t>(width);
  if (static_cast<int64_t>(width) != columns_) {
    fail(ErrorKind::kInput, "{}:{}: {} cells, expected {} as in the first row", where_, line, width, columns_);
  }
  lines_.push_back(line);
  if (filled) filled_ = lines_.size();
}

bool CsvTable::first_row_is_header() const {
  for (int64_t column = 0; column < columns_; ++column) {
    const std::string_view text = cell(0, column);
    if (csv_missing(text) || csv_number(text, decimal_)) continue;
    const bool infinity = same_word(text, "inf") || same_word(text, "infinity");
    if (!infinity && std::string_view("0123456789+-.").find(text[0]) == std::string_view::npos) return true;
  }
  return false;
}

void CsvTable::take_header() {
  std::map<std::string, int64_t, std::less<>> taken;  // how often each name was tried
  for (int64_t column = 0; column < columns_; ++column) {
    const std::string name =
        cell(0, column).empty() ? fmt::format("Unnamed: {}", column) : std::string(cell(0, column));
    std::string unique = name;
    while (taken.contains(unique)) unique = fmt::format("{}.{}", name, ++taken[name]);
    taken.emplace(unique, 0);
    header_.push_back(unique);
  }
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
  const std::string_view text = cell(row, column);
  const std::optional<double> value = csv_number(text, decimal_);
  if (value && (missing_ || !std::isnan(*value))) return *value;
  // "1,234" may be either; "1,5" is no number with thousands.
  const bool grouped = text.find(',') != text.npos && text.find(',') + 4 <= text.size();
  const bool comma = !value && decimal_ == '.' && csv_number(text, ',');
  fail(ErrorKind::kInput, "{}: got \"{}\", expected a finite number{}{}{}", place(row, column), shortened(text),
       missing_ ? " or a missing value" : "", grouped ? ", without separators of thousands" : "",
       comma ? " (--decimal comma reads a decimal comma)" : "");
}

}  // namespace carousel::formats
