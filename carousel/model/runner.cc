// SPDX-License-Identifier: Apache-2.0
// A language model's forwards over Pass: tokens in, hidden rows and logits out.
#include "carousel/model/runner.h"

#include <algorithm>
#include <vector>

#include "carousel/core/assert.h"
#include "carousel/ops/rows/rows.h"

namespace carousel::model {
Tensor Runner::forward(std::span<const int32_t> tokens, std::span<State* const> states,
                       std::span<const int64_t> lengths) {
  Ctx edge = pass_.ctx();
  const ops::Ids ids = ops::token_ids(edge, tokens, lm_.vocab_size());
  return pass_.run(lm_.state_layout(), states, lengths, {}, [&](Ctx& ctx, const Seqs& seqs, const StateBatch* bound) {
    CAROUSEL_ASSERT(seqs.rows() == ids.count());
    return lm_.forward(ctx, ids, seqs, bound);
  });
}

Tensor Runner::forward(std::span<const int32_t> tokens, std::span<const int64_t> lengths) {
  Ctx edge = pass_.ctx();
  const ops::Ids ids = ops::token_ids(edge, tokens, lm_.vocab_size());
  return pass_.run(lengths, [&](Ctx& ctx, const Seqs& seqs, const StateBatch*) {
    CAROUSEL_ASSERT(seqs.rows() == ids.count());
    return lm_.forward(ctx, ids, seqs, nullptr);
  });
}

Tensor Runner::prefill(std::span<const int32_t> tokens, State& state, const std::function<bool()>& stop) {
  Tensor last;
  const auto end = static_cast<int64_t>(tokens.size());
  const int64_t rows_at_once = prefill_rows(*stream().memory);
  for (int64_t begin = 0; begin < end;) {
    if (stop && stop()) break;
    const int64_t slab = std::min(rows_at_once - state.pos() % rows_at_once, end - begin);
    State* const states[] = {&state};
    const int64_t lengths[] = {slab};
    last = Tensor();
    const Tensor hidden =
        forward(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(slab)), states, lengths);
    Ctx ctx = pass_.ctx();
    const int64_t rows[] = {slab - 1};
    last = ops::gather_rows(ctx, hidden, rows);
    begin += slab;
  }
  return last;
}

Tensor Runner::logits(const Tensor& hidden) {
  Ctx ctx = pass_.ctx();
  return lm_.logits(ctx, hidden);
}

Tensor Runner::next_logits(std::span<const int32_t> tokens, std::span<State* const> states) {
  Memory& memory = *stream().memory;
  Tensor there;
  if (pass_.is_observed() || stream().watch != nullptr || !memory.records()) {
    const std::vector<int64_t> lengths(tokens.size(), 1);
    there = logits(forward(tokens, states, lengths));
  } else {
    if (replay_ == nullptr) replay_ = std::make_unique<Replay>(lm_, stream(), numerics_);
    there = replay_->next_logits(tokens, states);
  }
  if (&memory == &Memory::host()) return there;
  Tensor here = on_host_.empty(there.shape());
  Memory::copy(memory, static_cast<const std::byte*>(there.raw()), here.memory(), static_cast<std::byte*>(here.raw()),
               here.size_bytes());
  return here;
}

}  // namespace carousel::model
