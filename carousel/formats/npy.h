// SPDX-License-Identifier: Apache-2.0
// numpy's .npy: one array in a file. A magic string, a version, a Python dict literal {'descr', 'fortran_order',
// 'shape'}, then the elements. Little-endian numbers only; never objects, which would be pickles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "carousel/core/tensor.h"

namespace carousel::formats {

/// An array where it lies: nothing is converted.
struct NpyArray {
  std::string descr;                    // numpy's name of the type: "<u2"
  size_t element_bytes = 0;             // size of one element
  bool fortran_order = false;           // the first dimension is innermost
  std::vector<int64_t> shape;           // empty: one number
  std::span<const std::byte> elements;  // as many bytes as the shape asks for
};
/// Throws as parse_npy. The bytes must outlive what is returned.
NpyArray view_npy(std::span<const std::byte> bytes, const std::string& where);

/// The array in f32, row-major whatever the file's order. Reads versions 1 to 3 of float16, float32, float64, bool and
/// integers. Throws Error(kIo), or Error(kInput) naming the file: a malformed header, another type, another size than
/// the shape asks for, more than 6 dimensions.
Tensor read_npy(const std::string& path);
/// The same for a file in memory; `where` names it in messages.
Tensor parse_npy(std::span<const std::byte> bytes, const std::string& where);

/// An f32 array as version 1, written whole or not at all. Throws Error(kIo).
void write_npy(const std::string& path, const Tensor& values);

}  // namespace carousel::formats
