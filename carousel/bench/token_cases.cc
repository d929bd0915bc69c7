// SPDX-License-Identifier: Apache-2.0
// The operands of the two ends of a language model: the look-up of tokens, and the head with its loss.
#include <fmt/format.h>

#include <chrono>
#include <cstring>
#include <memory>

#include "carousel/bench/op_makers.h"
#include "carousel/core/rng.h"
#include "carousel/ops/tokens/embedding.h"
#include "carousel/ops/tokens/linear_cross_entropy.h"

namespace carousel::bench {
namespace {

constexpr int64_t kVocab = 16384;

std::vector<int32_t> drawn_ids(int64_t rows, int64_t vocab) {
  std::vector<int32_t> ids;
  Rng rng(kDrawSeed);
  for (int64_t n = 0; n < rows; ++n) ids.push_back(static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(vocab)));
  return ids;
}

/// A matrix [vocab, width], trained where the gradient is timed.
Weight matrix(const Shapes& shapes, Work& work, int64_t vocab, int64_t width, Weight::Layout layout) {
  // ring_of() refuses what does not fit, before it is drawn.
  ring_of(3.0 * kF32Bytes * static_cast<double>(vocab) * static_cast<double>(width));
  const Tensor values = drawn({vocab, width}, 0.03f);
  if (shapes.options.backward) {
    work.train(values);
    return Weight::of_master(shapes.stream, values, layout);
  }
  Weight held(vocab, width, DType::kF32, layout, shapes.memory());
  held.write_rows(shapes.stream, 0, vocab, values.raw(), DType::kF32);
  return held;
}

}  // namespace

// Tokens are drawn: most rows of the table that they read are in no cache.
OpCase embedding_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), vocab = chosen(shapes.options.out, kVocab);
  const int64_t rows = shapes.all_rows();
  const auto work = std::make_shared<Work>(shapes.memory());
  const Weight table = matrix(shapes, *work, vocab, width, Weight::Layout::kRows);
  OpCase result = case_of(shapes, elementwise_cost(static_cast<double>(rows) * static_cast<double>(width), 1, 0));
  result.shape = fmt::format("N={} D={} V={}", rows, width, vocab);
  work->draw(1, {1, 1});  // the look-up has no activation to read
  const Tensor place(Shape{rows}, DType::kI32, shapes.memory());
  const ops::Ids ids = ops::token_ids(shapes.stream, drawn_ids(rows, vocab), vocab, place);
  set_call(result, work, shapes,
           [table, ids](Ctx& ctx, size_t) { return std::vector<Tensor>{ops::embedding(ctx, ids, table)}; });
  return result;
}

// Head and loss are one op, which forms the logits once for loss and gradient. The gradient's time is what it adds to
// the loss's, both taken in one call.
OpCase head_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), vocab = chosen(shapes.options.out, kVocab);
  const int64_t rows = shapes.all_rows();
  const auto work = std::make_shared<Work>(shapes.memory());
  const Weight weight = matrix(shapes, *work, vocab, width, Weight::Layout::kPanels);
  const double multiplies = static_cast<double>(vocab) * static_cast<double>(width);
  OpCase result = case_of(shapes, linear_cost(shapes.stream, weight, multiplies, rows));
  result.written_bytes = kF32Bytes * static_cast<double>(rows);  // logits stay in caches
  result.shape = fmt::format("N={} D={} V={}", rows, width, vocab);
  work->draw(result.ring, {rows, width});
  const std::vector<int32_t> targets = drawn_ids(rows, vocab);
  set_call(result, work, shapes, [&held = *work, weight, targets, vocab](Ctx& ctx, size_t i) {
    const ops::Targets wanted = ops::training_targets(ctx, targets, vocab);
    return std::vector<Tensor>{ops::linear_cross_entropy(ctx, held.x[i], {weight}, wanted)};
  });
  if (!shapes.options.backward) return result;
  result.backward = [work, weight, targets, vocab, &stream = shapes.stream](size_t i) {
    Tape tape(work->trained);
    const Tensor x = work->arena.empty(work->x[i].shape());
    std::memcpy(x.raw(), work->x[i].raw(), x.size_bytes());  // gradients are timed on the host alone
    tape.watch(x);
    Ctx ctx{stream, work->arena};
    Grads grads(tape);
    const ops::Targets wanted = ops::training_targets(ctx, targets, vocab);
    const auto seconds = [&](Grads* wanted_grads) {
      const auto start = std::chrono::steady_clock::now();
      ops::linear_cross_entropy(ctx, x, {weight}, wanted, wanted_grads, 1);
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    const double loss = seconds(nullptr);
    return seconds(&grads) - loss;
  };
  return result;
}

}  // namespace carousel::bench
