// SPDX-License-Identifier: Apache-2.0
// A conversation with its past. States are values, so the past is a list of states: going back computes nothing, and a
// copy of a conversation is a branch of it.
#pragma once

#include <cstddef>
#include <deque>

#include "carousel/model/saved_state.h"

namespace carousel::generate {

class Conversation {
 public:
  /// Default limit for the bytes of past states. Each state counts whole, even if it shares pages; the last one is kept
  /// whatever its size.
  static constexpr size_t kPastBytes = size_t{1} << 30;

  explicit Conversation(size_t past_bytes = kPastBytes) : limit_bytes_(past_bytes) {}

  const model::SavedState& now() const { return now_; }
  /// Makes `next` the present state: the one after a turn, an empty one, or one from a file. The state before joins the
  /// past.
  void advance(model::SavedState next);
  /// Goes back to the state before the last advance(); false when the past is empty.
  bool undo();
  bool forgot() const { return forgot_; }  // states were dropped from the past, which was above the limit

 private:
  model::SavedState now_;
  std::deque<model::SavedState> past_;
  size_t held_bytes_ = 0;  // bytes of past_
  size_t limit_bytes_;
  bool forgot_ = false;
};

}  // namespace carousel::generate
