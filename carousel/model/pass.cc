// SPDX-License-Identifier: Apache-2.0
// The steps around a forward: laying out the batch, binding states, uploading tokens.
#include "carousel/model/pass.h"

#include "carousel/core/error.h"

namespace carousel::model {
void Pass::Stopper::residual(size_t count, const Tensor& x) {
  if (pass_.observer_ != nullptr) pass_.observer_->residual(count, x);
  if (pass_.stop_()) fail(ErrorKind::kCancelled, "stopped after {} sublayers", count);
}

void Pass::lay_out(std::span<const int64_t> lengths) {
  seqs_.offsets.assign(1, 0);
  for (const int64_t length : lengths) {
    CAROUSEL_ASSERT(length >= 0);
    seqs_.offsets.push_back(seqs_.offsets.back() + length);
  }
  seqs_.pos.assign(lengths.size(), 0);
  seqs_.dt = Tensor();
}

Pass::Binding::Binding(Pass& pass, const StateLayout& layout, std::span<State* const> states,
                       std::span<const int64_t> lengths, const Tensor& elapsed)
    : pass_(pass) {
  CAROUSEL_ASSERT(states.size() == lengths.size());
  pass_.lay_out(lengths);
  for (size_t s = 0; s < states.size(); ++s) pass_.seqs_.pos[s] = states[s]->pos();
  pass_.seqs_.dt = elapsed;
  pass_.seqs_.bring_to(*pass_.stream_.memory);
  pass_.states_.bind(layout, states, lengths, *pass_.stream_.memory);
}

Pass::Binding::~Binding() {
  pass_.seqs_.dt = Tensor();
  pass_.states_.unbind();
}

}  // namespace carousel::model
