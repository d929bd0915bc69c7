// SPDX-License-Identifier: Apache-2.0
// CSV text: any bytes parse or are refused; every cell of an accepted table can be read, and written quoted it reads
// back as it was.
#include <string>

#include "carousel/core/error.h"
#include "carousel/formats/csv.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using carousel::formats::CsvTable;
  try {
    const CsvTable table = CsvTable::parse({reinterpret_cast<const char*>(bytes), size}, "fuzz");
    for (int64_t row = 0; row < table.rows(); ++row) {
      std::string line;
      for (int64_t column = 0; column < table.columns(); ++column) {
        carousel::formats::csv_number(table.cell(row, column));
        line += (column == 0 ? "" : ",") + carousel::formats::csv_quoted(table.cell(row, column));
      }
      if (table.columns() < 2 || line.find_first_of(";\t\n\r") != std::string::npos) continue;
      const CsvTable again = CsvTable::parse(line, "again", {carousel::formats::CsvOptions::Header::kNo});
      for (int64_t column = 0; column < table.columns(); ++column) {
        if (again.cell(0, column) != table.cell(row, column)) __builtin_trap();
      }
    }
  } catch (const carousel::Error&) {
  }
  return 0;
}
