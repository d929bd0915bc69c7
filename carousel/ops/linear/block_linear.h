// SPDX-License-Identifier: Apache-2.0
// y = x W^T with a block-diagonal W: the head-wise and small-block projections of the 2024 xLSTM.
#pragma once

#include <initializer_list>
#include <vector>

#include "carousel/ops/ctx.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

/// A block-diagonal matrix of `blocks` square blocks, and the bias of its projection. Wide blocks are panels for
/// ops::linear's kernel; narrow ones, narrower than a panel, are multiplied lane by lane.
struct BlockWeight {
  int64_t blocks = 0, size = 0;
  std::vector<Weight> wide;  // [size, size] of every block, f32
  Tensor narrow;             // [size, blocks * size] f32: input within the block, output
  Tensor bias;               // [blocks * size] f32, or empty
};

/// From a tensor as files hold it. On meta the blocks have shapes alone.
///   weight [blocks, size, size] f32: block, out, in;  bias [blocks * size] or empty
BlockWeight pack_blocks(const Tensor& weight, const Tensor& bias);

/// One projection of a call: weight, and the column of y its first output goes to.
struct BlockPart {
  const BlockWeight* weight;
  int64_t first_col;
};

/// Projections of the same x, into columns of y.
///   x [rows, blocks * size] f32; y [rows, *] f32, wide enough for every part
/// All parts have the same blocks. Each output is one chain of multiply-adds over its block's inputs, the bias added
/// last: a row's result does not depend on the other rows. Throws kShape. rows may be 0.
void block_linear(Ctx& ctx, const Columns& x, std::initializer_list<BlockPart> parts, const Columns& y);

}  // namespace carousel::ops
