// SPDX-License-Identifier: Apache-2.0
// One thread's way through a language model. A runner holds no memory of a sequence: that is in the State of the
// caller.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "carousel/model/lm.h"
#include "carousel/model/pass.h"
#include "carousel/model/replay.h"
#include "carousel/ops/kernel.h"

namespace carousel::model {

/// Rows a long prompt is cut into, at multiples of this from position 0: bounds activations. The cut changes no bit,
/// but where a GPU computes products in bf16 (docs/numerics.md). A GPU needs more rows at a time to be busy.
inline int64_t prefill_rows(const Memory& memory) { return kernel_traits(memory).slab_rows; }
constexpr int64_t kPrefillRows = KernelTraits().slab_rows;  // of the CPU

class Runner {
 public:
  /// All must outlive the runner. Not for use by two threads at once.
  Runner(const Lm& lm, const Stream& stream, const Numerics& numerics = Numerics::native())
      : lm_(lm), numerics_(numerics), pass_(stream, numerics), on_host_(stream.memory->landing()) {}

  /// The next lengths[s] tokens of every sequence s, laid end to end in `tokens`; every state moves on by its length.
  /// Returns hidden [N, D], valid until dropped. Throws kInput for an id outside the vocabulary; no state has changed
  /// then.
  Tensor forward(std::span<const int32_t> tokens, std::span<State* const> states, std::span<const int64_t> lengths);
  /// The same without memory: every sequence starts from the zero state, and nothing is kept.
  Tensor forward(std::span<const int32_t> tokens, std::span<const int64_t> lengths);

  /// A prompt of any length into one state, slab by slab. `stop`, asked before every slab, ends it early. Returns the
  /// hidden row [1, D] of the last token run; undefined when there was none.
  Tensor prefill(std::span<const int32_t> tokens, State& state, const std::function<bool()>& stop = {});

  /// hidden [rows, D] -> logits [rows, V] f32.
  Tensor logits(const Tensor& hidden);

  /// forward() of a token per sequence, and its logits [B, V] on the host, in memory that is used again once they are
  /// dropped. A device that records runs recorded work (model/replay.h), unless somebody watches.
  Tensor next_logits(std::span<const int32_t> tokens, std::span<State* const> states);

  Pass& pass() { return pass_; }
  Arena& arena() { return pass_.arena(); }
  const Stream& stream() const { return pass_.stream(); }
  const Lm& lm() const { return lm_; }
  /// From now on `observer` is told the residual stream of every forward; null: nobody is told.
  void observe(Observer* observer) { pass_.observe(observer); }
  /// From now on `stop` (if not empty) is asked between the sublayers of every forward. True ends the forward with
  /// Error(kCancelled); its states then hold nothing of use.
  void stop_when(std::function<bool()> stop) { pass_.stop_when(std::move(stop)); }

 private:
  const Lm& lm_;
  const Numerics& numerics_;
  Pass pass_;
  std::unique_ptr<Replay> replay_;  // null before the first step that it runs
  Arena on_host_;                   // of logits
};

}  // namespace carousel::model
