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

Shape without_ones(const Shape& shape) {
  Shape out;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != 1) out.push_back(shape[i]);
  }
  return out;
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

Tensor read_row_times(const std::string& path, char decimal, int64_t batch, int64_t length, const std::string& of) {
  const Tensor values = read_numbers(path, decimal);
  const Shape got = without_ones(values.shape());
  if (!(got == without_ones(Shape{batch * length})) && !(got == without_ones(Shape{batch, length}))) {
    fail(ErrorKind::kInput,
         "{}: shape {}, expected one time for each of {} x {} rows of {}: a column, or a row of them", path,
         values.shape().str(), batch, length, of);
  }
  return values.reshape(Shape{batch, length});
}

}  // namespace carousel::formats
