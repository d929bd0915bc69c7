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
  static void round_states(Ctx& ctx, const Residual& residual, const StateBatch& states, const Seqs& seqs);
  std::vector<Residual> residuals_;
  ops::Norm out_norm_;
  StateLayout layout_;
  int64_t width_ = 0;
};

}  // namespace carousel::model
