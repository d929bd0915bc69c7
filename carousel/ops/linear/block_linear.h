// SPDX-License-Identifier: Apache-2.0
// y = x W^T with a block-diagonal W: the head-wise and small-block projections of the 2024 xLSTM.
#pragma once

#include <initializer_list>

#include "carousel/ops/ctx.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::ops {

/// The bias of a block-diagonal projection: that of block b is [size] f32, from element first + b * stride of `values`.
struct BlockBias {
  Tensor values;  // or empty: none
  int64_t first = 0;
  int64_t stride = 0;
};

/// A block-diagonal matrix of `blocks` square blocks, and the bias of its projection: a form (ops/params.h). Wide
/// blocks are panels for ops::linear's kernel; narrow ones, narrower than a panel, are multiplied lane by lane.
class BlockWeight {
 public:
  BlockWeight() = default;
  /// weight [blocks, size, size] f32, as files hold it: block, out, in. Throws kShape.
  BlockWeight(const Tensor& weight, const BlockBias& bias);
  /// The same with a bias [blocks * size], or an empty one.
  BlockWeight(const Tensor& weight, const Tensor& bias);
  void pack(const Stream& stream) const;
  void release();

  int64_t blocks() const { return blocks_; }
  int64_t size() const { return size_; }
  int64_t width() const { return blocks_ * size_; }
  bool wide() const { return size_ >= DensePanels::kPanelRows; }
  const std::byte* panels(int64_t block) const;    // wide: of this block, f32, as DensePanels has them
  const Tensor& lanes() const { return packed_; }  // narrow: [size, width] f32: input within the block, output
  const Tensor& bias() const { return bias_; }     // [width] f32, or empty
  /// The masters [blocks, size, size] and where the biases lie; undefined once released.
  const Tensor& master() const { return weight_; }
  const BlockBias& bias_master() const { return biases_; }

 private:
  int64_t blocks_ = 0, size_ = 0;
  Tensor weight_;  // the masters
  BlockBias biases_;
  Tensor packed_, bias_;
};

/// One projection of a call.
struct BlockPart {
  Columns x;  // [rows, blocks * size] f32
  const BlockWeight* weight;
};

/// Projections side by side: returns y [rows, parts * blocks * size] f32, the outputs of each part in its order. Parts
/// may read the same x, or columns of different tensors.
/// All parts have the same blocks. Each output is one chain of multiply-adds over its block's inputs, the bias added
/// last: a row's result does not depend on the other rows. Differentiable in x, weights and biases. Throws kShape. rows
/// may be 0.
Tensor block_linear(Ctx& ctx, std::initializer_list<BlockPart> parts);

}  // namespace carousel::ops
