// SPDX-License-Identifier: Apache-2.0
#include "carousel/generate/conversation.h"

#include <utility>

namespace carousel::generate {
namespace {

size_t bytes_of(const model::SavedState& saved) {
  const size_t logits_bytes = saved.logits.defined() ? saved.logits.size_bytes() : 0;
  return saved.state.bytes() + saved.tokens.size() * sizeof(int32_t) + logits_bytes;
}

}  // namespace

void Conversation::advance(model::SavedState next) {
  held_bytes_ += bytes_of(now_);
  past_.push_back(std::exchange(now_, std::move(next)));
  while (held_bytes_ > limit_bytes_ && past_.size() > 1) {
    held_bytes_ -= bytes_of(past_.front());
    past_.pop_front();
    forgot_ = true;
  }
}

bool Conversation::undo() {
  if (past_.empty()) return false;
  now_ = std::move(past_.back());
  past_.pop_back();
  held_bytes_ -= bytes_of(now_);
  return true;
}

}  // namespace carousel::generate
