// SPDX-License-Identifier: Apache-2.0
// Row look-up in a table of token vectors.
#pragma once

#include "carousel/ops/ctx.h"
#include "carousel/ops/tokens/ids.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

/// Rows of a table.
///   tokens [N] below V; table [V, D] in either layout (a tied table is packed for the head)
///   padding: the token whose row gets no gradient from here (torch.nn.Embedding's padding_idx); negative: none
///   returns [N, D] f32
/// Throws kShape, also where the tokens were checked against more than V. N may be 0.
Tensor embedding(Ctx& ctx, const Ids& tokens, const Weight& table, int64_t padding = -1);

}  // namespace carousel::ops
