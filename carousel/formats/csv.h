// SPDX-License-Identifier: Apache-2.0
// Comma-separated values (RFC 4180) as tables of text: quoted fields, CRLF, a byte order mark, and `;` or tab in place
// of the comma (told by the first lines, or by "sep=;" in the first). The caller knows what a cell means; numbers are
// read here, so that every command reads them alike, whatever the locale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::formats {

struct CsvOptions {
  enum class Header { kAuto, kYes, kNo };
  Header header = Header::kAuto;  // kAuto: a first line with a cell that begins like neither a number nor a date
  char decimal = '.';             // ',' is then no delimiter
  size_t max_bytes = size_t{1} << 30;
  size_t max_columns = 65536;
  bool missing = true;  // numbers may be missing
};

class CsvTable {
 public:
  /// Throws Error(kIo), or Error(kInput) "path:line: what": text after a closing quote, an open quote, a row of another
  /// width, a NUL byte, UTF-16, no rows at all, too large. Blank lines are skipped, and so are lines of delimiters
  /// alone above and below the table. A pipe is read to its end.
  static CsvTable open(const std::string& path, const CsvOptions& options = {});
  static CsvTable parse(std::string_view text, const std::string& where, const CsvOptions& options = {});

  /// The names of the columns; empty: there is no header. As in pandas a column without a name is "Unnamed: 0", a
  /// second "a" is "a.1".
  const std::vector<std::string>& header() const { return header_; }
  int64_t rows() const { return static_cast<int64_t>(lines_.size()); }
  int64_t columns() const { return columns_; }
  std::string_view cell(int64_t row, int64_t column) const;  // without quotes; outer spaces only if quoted
  int64_t line(int64_t row) const { return lines_[static_cast<size_t>(row)]; }  // in the file, from 1
  std::optional<int64_t> find(std::string_view name) const;                     // column by its header
  /// "path:line: column 3 \"OT\"" for messages.
  std::string place(int64_t row, int64_t column) const;
  /// NaN for a missing value. Throws Error(kInput) naming the place for infinities, for what is not a number, and for a
  /// missing value where none may be.
  double number(int64_t row, int64_t column) const;

 private:
  struct Cell {
    size_t begin = 0;  // its first byte in text_
    size_t size = 0;
  };
  void read(std::string_view text, const CsvOptions& options);
  void end_row(int64_t line, bool quoted, const CsvOptions& options);
  bool first_row_is_header() const;
  void take_header();

  std::string where_;
  char decimal_ = '.';
  bool missing_ = true;
  std::string text_;  // the text of all cells, end to end
  std::vector<Cell> cells_;
  std::vector<int64_t> lines_;
  size_t filled_ = 0;  // rows up to the last one with text
  int64_t columns_ = 0;
  std::vector<std::string> header_;
};

/// Whether a cell is missing: empty, or one of pandas' words: NA, N/A, NaN, null, None, <NA>, #N/A,
/// #NA, 1.#IND, 1.#QNAN, ..., in any case.
bool csv_missing(std::string_view cell);
/// A finite number ("+1.5", "-2e3"), or NaN for a missing value; nothing for anything else.
std::optional<double> csv_number(std::string_view cell, char decimal = '.');
/// The cell as it must be written: quoted when it holds a delimiter, a quote, a line break or outer spaces.
std::string csv_quoted(std::string_view cell);

}  // namespace carousel::formats
