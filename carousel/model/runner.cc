// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/runner.h"

#include <algorithm>
#include <cstring>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

class Stopper : public Observer {
 public:
  Stopper(const std::function<bool()>& stop, Observer* next) : stop_(stop), next_(next) {}
  void residual(size_t count, const Tensor& x) override {
    if (next_ != nullptr) next_->residual(count, x);
    if (stop_()) fail(ErrorKind::kCancelled, "stopped after {} sublayers", count);
  }

 private:
  const std::function<bool()>& stop_;
  Observer* next_;
};

}  // namespace

void Runner::lay_out(std::span<const int32_t> tokens, std::span<const int64_t> lengths) {
  seqs_.offsets.assign(1, 0);
  for (const int64_t length : lengths) {
    CAROUSEL_ASSERT(length >= 0);
    seqs_.offsets.push_back(seqs_.offsets.back() + length);
  }
  CAROUSEL_ASSERT(seqs_.offsets.back() == static_cast<int64_t>(tokens.size()));
  tokens_ = Tensor();  // first back to the arena, then out of it again
  tokens_ = arena_.empty(Shape{static_cast<int64_t>(tokens.size())}, DType::kI32);
  std::copy(tokens.begin(), tokens.end(), tokens_.i32());
}

Tensor Runner::forward(std::span<const int32_t> tokens, std::span<State* const> states,
                       std::span<const int64_t> lengths) {
  CAROUSEL_ASSERT(states.size() == lengths.size());
  lay_out(tokens, lengths);
  seqs_.pos.clear();
  for (const State* state : states) seqs_.pos.push_back(state->pos());
  Stopper stopper(stop_, observer_);
  Ctx ctx{stream_, arena_, numerics_, stop_ ? &stopper : observer_};
  states_.bind(lm_.state_layout(), states, lengths);
  const Tensor hidden = lm_.forward(ctx, tokens_, seqs_, &states_);
  states_.advance(lengths);
  states_.unbind();
  return hidden;
}

Tensor Runner::forward(std::span<const int32_t> tokens, std::span<const int64_t> lengths) {
  lay_out(tokens, lengths);
  seqs_.pos.assign(lengths.size(), 0);
  Stopper stopper(stop_, observer_);
  Ctx ctx{stream_, arena_, numerics_, stop_ ? &stopper : observer_};
  return lm_.forward(ctx, tokens_, seqs_, nullptr);
}

Tensor Runner::prefill(std::span<const int32_t> tokens, State& state, const std::function<bool()>& stop) {
  Tensor last;
  const auto end = static_cast<int64_t>(tokens.size());
  for (int64_t begin = 0; begin < end;) {
    if (stop && stop()) break;
    const int64_t slab = std::min(kPrefillRows - state.pos() % kPrefillRows, end - begin);
    State* const states[] = {&state};
    const int64_t lengths[] = {slab};
    last = Tensor();
    const Tensor hidden =
        forward(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(slab)), states, lengths);
    last = arena_.empty(Shape{1, hidden.dim(1)});
    std::memcpy(last.raw(), hidden.rows(slab - 1, slab).raw(), last.size_bytes());
    begin += slab;
  }
  return last;
}

Tensor Runner::logits(const Tensor& hidden) {
  Ctx ctx{stream_, arena_, numerics_, observer_};
  return lm_.logits(ctx, hidden);
}

}  // namespace carousel::model
