// SPDX-License-Identifier: Apache-2.0
// Copies rows and columns between matrices.
#pragma once

#include <cstdint>
#include <span>

#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// Rows of x [N, D] f32 in the order of `rows`, each in [0, N): returns [rows, D]. Throws kShape for another row.
Tensor gather_rows(Ctx& ctx, const Tensor& x, std::span<const int64_t> rows);

/// to = from, f32 columns of equal shape. Throws kShape. There may be no rows.
void copy_columns(Ctx& ctx, const Columns& from, const Columns& to);

}  // namespace carousel::ops
