// SPDX-License-Identifier: Apache-2.0
// A block is mathematics: it maps rows to rows and says which state one sequence keeps. It knows nothing of file names,
// residuals or layer order. New blocks: docs/adding_a_block.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/core/state.h"
#include "carousel/ops/ctx.h"
#include "carousel/ops/params.h"

namespace carousel::blocks {

class Block {
 public:
  virtual ~Block() = default;
  /// The state tensors of one sequence; empty for a block without memory.
  virtual std::vector<StateSpec> state() const { return {}; }
  /// Width of a row of the result; 0: the width of x. Another width fits only where no residual is added.
  virtual int64_t output_size() const { return 0; }
  /// f32 operations of the block's formula over `rows` rows of one sequence that has seen `depth` rows before.
  /// Projections and elementwise functions do not count. bench computes a floor of time from it. 0: nothing to count.
  virtual double cell_flops(int64_t /*rows*/, int64_t /*depth*/) const { return 0; }
  /// x [N, D] f32 -> [N, D]. `states` holds this block's state tensors of every sequence, read and replaced in place
  /// (empty: start from zero, keep nothing). One forward for training, prefill and decode.
  virtual Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const = 0;
};

struct BlockConfig {
  int64_t hidden_size = 0;  // D, the width of x
  int64_t num_layers = 1;   // depth of the model, for initialisation
  Fields& options;          // this block's section of the config; the caller refuses keys that the block did not read
};

/// One line of the registry.
struct Entry {
  const char* name;
  std::unique_ptr<Block> (*make)(const BlockConfig&, Params);
  const char* summary;  // one line for listings
};

/// Every block there is, in a fixed order.
std::vector<Entry> registry();
/// The entry called `name`. Throws Error(kInput) that lists the known ones.
Entry find_block(const std::string& name, const std::string& where);

}  // namespace carousel::blocks
