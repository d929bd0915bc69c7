// SPDX-License-Identifier: Apache-2.0
// Decoding as recorded work: a forward of a token per sequence and its logits, asked of the device at once.
#pragma once

#include <map>
#include <memory>
#include <span>

#include "carousel/model/lm.h"
#include "carousel/model/pass.h"

namespace carousel::model {

/// For memories that record (Memory::records). What it runs gives the bits that Runner::forward and logits give.
class Replay {
 public:
  /// All must outlive the replay. Not for use by two threads at once.
  Replay(const Lm& lm, const Stream& stream, const Numerics& numerics);

  /// The next token of every sequence; every state moves on by one. Returns logits [B, V], which the next call may
  /// overwrite. Throws as Runner::forward.
  Tensor next_logits(std::span<const int32_t> tokens, std::span<State* const> states);

 private:
  /// Where the tables that kernels read lie; what was recorded reads the same places.
  struct Places {
    const void *ids = nullptr, *seqs = nullptr, *states = nullptr;
    bool operator==(const Places&) const = default;
  };
  /// The work for one number of sequences. It runs as any other at first, which brings the arena its blocks.
  struct Step {
    Places places;
    Tensor logits;  // where the recorded work writes them
    std::unique_ptr<Recording> recorded;
  };
  Tensor run(Step& step, const Places& places, const std::function<Tensor()>& forward);

  const Lm& lm_;
  Pass pass_;                     // of its own: nobody else is given blocks that recorded work writes to
  Tensor ids_;                    // [most sequences so far] i32
  bool records_ = true;           // no model has refused yet
  std::map<size_t, Step> steps_;  // by the number of sequences
};

}  // namespace carousel::model
