// SPDX-License-Identifier: Apache-2.0
// Pass holds what every forward needs beside a model: an arena, the layout of the batch, and its bound states. They are
// kept between calls, so that a steady loop allocates nothing. Runner, Predictor and Tirex run through it.
#pragma once

#include <functional>
#include <span>
#include <utility>

#include "carousel/core/state.h"
#include "carousel/ops/ctx.h"

namespace carousel::model {

class Pass {
 public:
  /// Both must outlive the pass. Not for use by two threads at once.
  Pass(const Stream& stream, const Numerics& numerics) : stream_(stream), numerics_(numerics), arena_(*stream.memory) {}
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  /// The next lengths[s] rows of every sequence s. It binds the states, calls forward(Ctx&, const Seqs&, StateBatch*),
  /// which gives a Tensor, and moves every state on by its length. What forward throws leaves the states where they
  /// were.
  ///   elapsed [N] f32: time before each row, or empty
  template <class F>
  Tensor run(const StateLayout& layout, std::span<State* const> states, std::span<const int64_t> lengths,
             const Tensor& elapsed, F&& forward) {
    const Binding binding(*this, layout, states, lengths, elapsed);
    Ctx context = ctx();
    Tensor result = forward(context, seqs_, &states_);
    states_.advance(lengths);
    return result;
  }
  /// The same without memory: every sequence starts from the zero state, and nothing is kept.
  template <class F>
  Tensor run(std::span<const int64_t> lengths, const Tensor& elapsed, F&& forward) {
    lay_out(lengths);
    seqs_.dt = elapsed;
    seqs_.bring_to(*stream_.memory);
    Ctx context = ctx();
    return forward(context, seqs_, nullptr);
  }
  template <class F>
  Tensor run(std::span<const int64_t> lengths, F&& forward) {
    return run(lengths, Tensor(), forward);
  }

  Ctx ctx() { return {stream_, arena_, numerics_, stop_ ? &stopper_ : observer_}; }
  Arena& arena() { return arena_; }
  const Arena& arena() const { return arena_; }
  const Stream& stream() const { return stream_; }
  /// From now on `observer` is told the residual stream of every forward; null: nobody is told.
  void observe(Observer* observer) { observer_ = observer; }
  bool is_observed() const { return observer_ != nullptr; }
  /// From now on `stop` (if not empty) is asked between the sublayers of every forward. True ends the forward with
  /// Error(kCancelled); its states then hold nothing of use.
  void stop_when(std::function<bool()> stop) { stop_ = std::move(stop); }

 private:
  /// Tells the observer, then asks whether to stop.
  class Stopper : public Observer {
   public:
    explicit Stopper(const Pass& pass) : pass_(pass) {}
    void residual(size_t count, const Tensor& x) override;

   private:
    const Pass& pass_;
  };
  /// Binds the states of one forward, and unbinds them however it ends.
  class Binding {
   public:
    Binding(Pass& pass, const StateLayout& layout, std::span<State* const> states, std::span<const int64_t> lengths,
            const Tensor& elapsed);
    ~Binding();
    Binding(const Binding&) = delete;
    Binding& operator=(const Binding&) = delete;

   private:
    Pass& pass_;
  };
  void lay_out(std::span<const int64_t> lengths);

  const Stream& stream_;
  const Numerics& numerics_;
  Observer* observer_ = nullptr;
  std::function<bool()> stop_;
  Stopper stopper_{*this};
  Arena arena_;
  Seqs seqs_;
  StateBatch states_;
};

/// Lets `stop` end what `target` (a Pass, a Runner or a Batcher) runs in this scope, and nothing after it, also where
/// the scope is left by an exception.
template <class Target>
class StopScope {
 public:
  StopScope(Target& target, std::function<bool()> stop) : target_(target) { target_.stop_when(std::move(stop)); }
  ~StopScope() { target_.stop_when({}); }
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

 private:
  Target& target_;
};

}  // namespace carousel::model
