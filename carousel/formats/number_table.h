// SPDX-License-Identifier: Apache-2.0
// Files of finite numbers, as predictions and training take features: .csv or .npy, told by the ending.
#pragma once

#include <string>

#include "carousel/core/tensor.h"

namespace carousel::formats {

/// The numbers in f32: [rows, columns] of a .csv (whose decimal point is `decimal`), the array of a .npy. Throws
/// Error(kIo), Error(kUsage) for another ending, Error(kInput) naming the place of what is no finite number: it would
/// never leave a state.
Tensor read_numbers(const std::string& path, char decimal = '.');

/// The times of `batch` sequences of `length` rows, as [batch, length]: an array with one time per row, as a column, as
/// one row, or with a row per sequence. `of` names the rows in the message of another shape.
Tensor read_row_times(const std::string& path, char decimal, int64_t batch, int64_t length, const std::string& of);

}  // namespace carousel::formats
