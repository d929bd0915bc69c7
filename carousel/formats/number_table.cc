// SPDX-License-Identifier: Apache-2.0
// Reads the tables, and refuses what is not finite.
#include "carousel/formats/number_table.h"

#include <cmath>

#include "carousel/core/error.h"
#include "carousel/formats/csv.h"
#include "carousel/formats/npy.h"

namespace carousel::formats {
namespace {

/// The numbers of a CSV file as [rows, columns], none of them missing or beyond float32.
Tensor read_csv(const std::string& path, char decimal) {
  CsvOptions csv;
  csv.decimal = decimal;
  csv.missing = false;
  const CsvTable table = CsvTable::open(path, csv);
  Tensor values(Shape{table.rows(), table.columns()}, DType::kF32);
  for (int64_t i = 0; i < values.count(); ++i) {
    const int64_t row = i / table.columns(), column = i % table.columns();
    const double number = table.number(row, column);
    const auto value = static_cast<float>(number);
    if (!std::isfinite(value)) {
      fail(ErrorKind::kInput, "{}: got \"{}\", expected a finite number", table.place(row, column),
           table.cell(row, column));
    }
    values.f32()[i] = value;
  }
  return values;
}

/// Throws Error(kInput) for a value that is not finite: it would never leave the state.
void check_finite(const std::string& path, const Tensor& values) {
  for (int64_t i = 0; i < values.count(); ++i) {
    if (std::isfinite(values.f32()[i])) continue;
    fail(ErrorKind::kInput, "{}: number {} of shape {} is {}, expected a finite one", path, i, values.shape().str(),
         values.f32()[i]);
  }
}

}  // namespace

Tensor read_numbers(const std::string& path, char decimal) {
  if (path.ends_with(".npy")) {
    const Tensor values = read_npy(path);
    check_finite(path, values);
    return values;
  }
  if (path.ends_with(".csv")) return read_csv(path, decimal);
  fail(ErrorKind::kUsage, "{}: expected a file that ends in .npy or .csv", path);
}

}  // namespace carousel::formats
