// SPDX-License-Identifier: Apache-2.0
// 1. Recorded work reads tokens, positions and the places of states from tables that each step fills anew, and takes
//    nothing from the host's values but the number of sequences.
// 2. A recording is used while its tables lie where they lay, and is made anew where one has moved.
#include "carousel/model/replay.h"

#include <algorithm>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/tokens/ids.h"

namespace carousel::model {
namespace {

constexpr size_t kMostSteps = 16;  // recordings that are kept; each takes some megabytes of the device

}  // namespace

Replay::Replay(const Lm& lm, const Stream& stream, const Numerics& numerics) : lm_(lm), pass_(stream, numerics) {}

Tensor Replay::next_logits(std::span<const int32_t> tokens, std::span<State* const> states) {
  CAROUSEL_ASSERT(tokens.size() == states.size());
  const auto count = static_cast<int64_t>(tokens.size());
  if (!ids_.defined() || ids_.count() < count) {
    ids_ = Tensor(Shape{std::max<int64_t>(2 * count, 16)}, DType::kI32, *pass_.stream().memory);
  }
  const ops::Ids ids = ops::token_ids(pass_.stream(), tokens, lm_.vocab_size(), ids_);
  const std::vector<int64_t> lengths(tokens.size(), 1);
  if (steps_.size() >= kMostSteps && !steps_.contains(tokens.size())) steps_.clear();
  Step& step = steps_[tokens.size()];
  return pass_.run(lm_.state_layout(), states, lengths, {}, [&](Ctx& ctx, const Seqs& seqs, const StateBatch* bound) {
    const Places places = {ids_.raw(), seqs.there.raw(), bound->tables()};
    return run(step, places, [&] { return lm_.logits(ctx, lm_.forward(ctx, ids, seqs, bound)); });
  });
}

Tensor Replay::run(Step& step, const Places& places, const std::function<Tensor()>& forward) {
  const bool ran = step.places == places;
  if (!ran) step = {places, Tensor(), nullptr};
  if (!ran || !records_) return forward();
  if (step.recorded == nullptr) {
    try {
      step.recorded = pass_.stream().memory->record([&] { step.logits = forward(); });
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kDevice) throw;
      records_ = false;  // a kernel that needs the host: the step runs as any other, and says so if that fails too
      step.logits = Tensor();
      return forward();
    }
  }
  step.recorded->run();
  return step.logits;
}

}  // namespace carousel::model
