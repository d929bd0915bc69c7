// SPDX-License-Identifier: Apache-2.0
// Row look-up in a table of token vectors.
#pragma once

#include "carousel/ops/ctx.h"
#include "carousel/ops/tokens/ids.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

/// Rows of a table.
///   tokens [N] below V; table [V, D] in either layout (a tied table is packed for the head)
///   returns [N, D] f32
/// Throws kShape, also where the tokens were checked against more than V. N may be 0.
Tensor embedding(Ctx& ctx, const Ids& tokens, const Weight& table);

}  // namespace carousel::ops
