// SPDX-License-Identifier: Apache-2.0
// A conversation with its past. States are values, so the past is a list of them: nothing is computed twice to go back,
// and a copy of a conversation is a branch of it.
#pragma once

#include <cstddef>
#include <deque>

#include "carousel/model/saved_state.h"

namespace carousel::generate {

class Conversation {
 public:
  /// Bytes of past states a conversation keeps unless told otherwise, each counted whole, whatever pages it shares; the
  /// last one is kept whatever its size.
  static constexpr size_t kPastBytes = size_t{1} << 30;

  explicit Conversation(size_t past_bytes = kPastBytes) : limit_bytes_(past_bytes) {}

  const model::SavedState& now() const { return now_; }
  /// The next state: after a turn, a start from nothing, a state from a file. What was is kept to go back to.
  void advance(model::SavedState next);
  /// Back to what was before the last advance(); false when nothing is left of it.
  bool undo();
  bool forgot() const { return forgot_; }  // the past was longer than the limit

 private:
  model::SavedState now_;
  std::deque<model::SavedState> past_;
  size_t held_bytes_ = 0;  // of past_
  size_t limit_bytes_;
  bool forgot_ = false;
};

}  // namespace carousel::generate
