// SPDX-License-Identifier: Apache-2.0
// Parameters of the continuous-time blocks: maps in f32 whatever the file's dtype, the LSTM of mixed memory, and the
// initialisations of ncps.
#pragma once

#include <cstdint>

#include "carousel/ops/cells/cell.h"
#include "carousel/ops/params.h"

namespace carousel::blocks {

/// Uniform within sqrt(6 / (rows + cols)) of zero (Glorot and Bengio, AISTATS 2010).
Init xavier_uniform(int64_t rows, int64_t cols);
/// Uniform within 1 / sqrt(fan_in) of zero, as torch draws a Linear.
Init fan_in_uniform(int64_t fan_in);

/// The weight [rows, cols] row by row in f32: its master where it is trained, else a copy.
Tensor row_major(const Weight& weight);

/// "input.weight" [4H, I] and bias, "recurrent.weight" [4H, H] of `p`.
ops::CellMap read_mixed_memory(Params p, int64_t inputs, int64_t units);

}  // namespace carousel::blocks
