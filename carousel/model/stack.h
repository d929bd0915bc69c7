// SPDX-License-Identifier: Apache-2.0
// The body of every model: residual sublayers, one after the other.
#pragma once

#include <memory>
#include <vector>

#include "carousel/blocks/block.h"
#include "carousel/model/config.h"

namespace carousel::model {

class Stack {
 public:
  /// Throws Error(kInput) naming a sublayer's unknown block or option.
  Stack(const ModelConfig& config, const Params& params, const std::string& where);

  /// x [N, D] -> [N, D], final norm included. states: bound for this batch, or null (start from zero, keep nothing).
  /// Under a tape that recomputes, they stay bound, and this lives, until the tape has run. Under one that drops, the
  /// outputs of sublayers are dropped out before they are added to x, as sublayers 1, 2, ... of ops::dropout.
  Tensor forward(Ctx& ctx, Tensor x, const Seqs& seqs, const StateBatch* states) const;
  /// The operations of all blocks; see blocks::Block.
  double cell_flops(int64_t rows, int64_t depth) const;
  const StateLayout& state_layout() const { return layout_; }
  int64_t output_size() const { return width_; }  // width of a row; D where every sublayer adds to its input

 private:
  struct Residual {
    ops::Norm norm;
    ops::Norm post_norm;
    bool adds = true;  // x + block, or the block's output alone
    std::unique_ptr<blocks::Block> block;
    size_t first_state = 0;  // its first entry in the layout
    bool has_state = false;
    std::vector<int64_t> fixed_counts;  // elements of each state tensor; 0 for one in pages
  };
  /// The batch a residual runs on: the rows of each sequence, and its own states (empty: none).
  struct Rows {
    const Seqs& seqs;
    LayerStates states;
  };
  /// Block and post_norm of normed [N, D].
  static Tensor after_norm(Ctx& ctx, const Residual& residual, const Tensor& normed, const Rows& rows);
  /// The norm of x [N, D] before them.
  static Tensor branch(Ctx& ctx, const Residual& residual, const Tensor& x, const Rows& rows);
  /// The same under a tape that recomputes.
  static Tensor recomputed_branch(Ctx& ctx, const Residual& residual, const Tensor& x, const Rows& rows);
  static std::vector<Tensor> keep_states(Ctx& ctx, const Residual& residual, const Rows& rows);
  static void restore_states(Ctx& ctx, const std::vector<Tensor>& kept, const Rows& rows);
  static void round_states(Ctx& ctx, const Residual& residual, const StateBatch& states, const Seqs& seqs);
  std::vector<Residual> residuals_;
  ops::Norm out_norm_;
  StateLayout layout_;
  int64_t width_ = 0;
};

}  // namespace carousel::model
