// SPDX-License-Identifier: Apache-2.0
// The operands of ops whose rows do not depend on each other.
#include <fmt/format.h>

#include <memory>

#include "carousel/bench/op_makers.h"
#include "carousel/core/error.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/block_linear.h"
#include "carousel/ops/moe/moe.h"
#include "carousel/ops/norm/norm.h"

namespace carousel::bench {

OpCase gated_unit_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), rows = shapes.all_rows();
  OpCase result = case_of(shapes, gated_unit_cost(rows, width));
  result.shape = fmt::format("N={} F={}", rows, width);
  const auto work = std::make_shared<Work>(shapes.memory());
  work->draw(result.ring, {rows, 2 * width});
  set_call(result, work, shapes,
           [&held = *work](Ctx& ctx, size_t i) { return std::vector<Tensor>{ops::swiglu(ctx, held.x[i])}; });
  return result;
}

// Without a tape the op caps in place: from the second call on the values are those of the call before.
OpCase soft_cap_case(const Shapes& shapes) {
  constexpr float kCap = 30;
  const int64_t width = chosen(shapes.options.in, 2048), rows = shapes.all_rows();
  const double count = static_cast<double>(rows) * static_cast<double>(width);
  OpCase result = case_of(shapes, elementwise_cost(count, 1, kSigmoid + 2));
  result.shape = fmt::format("N={} D={}", rows, width);
  const auto work = std::make_shared<Work>(shapes.memory());
  work->draw(result.ring, {rows, width});
  set_call(result, work, shapes,
           [&held = *work](Ctx& ctx, size_t i) { return std::vector<Tensor>{ops::soft_cap(ctx, held.x[i], kCap)}; });
  return result;
}

/// The width of a head of `width` columns.
int64_t head_dim_of(const Shapes& shapes, int64_t width, int64_t otherwise) {
  const int64_t dim = chosen(shapes.options.head_dim, otherwise);
  if (width % dim == 0) return dim;
  fail(ErrorKind::kUsage, "--head-dim: got {} for --in {}, expected a divisor of it", dim, width);
}

OpCase gate_heads_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), dim = head_dim_of(shapes, width, 64);
  const int64_t rows = shapes.all_rows(), heads = width / dim;
  const double count = static_cast<double>(rows) * static_cast<double>(width), share = 1 / static_cast<double>(dim);
  OpCase result = case_of(shapes, elementwise_cost(count, 1 + share, 1 + kSigmoid * share));
  result.shape = fmt::format("N={} H={} d={}", rows, heads, dim);
  const auto work = std::make_shared<Work>(shapes.memory());
  work->draw(result.ring, {rows, width});
  for (size_t i = 0; i < result.ring; ++i) work->y.push_back(drawn({rows, heads}, 1.0f, shapes.memory()));
  set_call(result, work, shapes, [&held = *work](Ctx& ctx, size_t i) {
    return std::vector<Tensor>{ops::gate_heads(ctx, held.x[i], held.y[i])};
  });
  return result;
}

OpCase head_norm_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), dim = head_dim_of(shapes, width, 512);
  const int64_t rows = shapes.all_rows(), heads = width / dim;
  Cost cost = norm_cost(rows, width, false);
  cost += elementwise_cost(static_cast<double>(rows) * static_cast<double>(width), 1, kSigmoid + 1);
  cost.written_bytes /= 2;  // norm and gate write one result
  OpCase result = case_of(shapes, cost);
  result.shape = fmt::format("N={} H={} d={}", rows, heads, dim);
  const auto work = std::make_shared<Work>(shapes.memory());
  const ops::Norm norm = work->draw_normed(result.ring, rows, width);
  set_call(result, work, shapes, [&held = *work, norm, heads](Ctx& ctx, size_t i) {
    ops::NormGate gate;
    gate.kind = ops::NormGate::Kind::kSigmoid;
    gate.pre = columns(held.y[i]);
    return std::vector<Tensor>{ops::head_norm(ctx, held.x[i], heads, norm, gate)};
  });
  return result;
}

OpCase block_linear_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), size = head_dim_of(shapes, width, 4);
  const int64_t rows = shapes.all_rows();
  OpCase result = case_of(shapes, block_linear_cost(rows, width, size));
  result.shape = fmt::format("N={} D={} block={}", rows, width, size);
  const auto work = std::make_shared<Work>(shapes.memory());
  const Tensor master = drawn({width / size, size, size}, 1.0f, shapes.memory());
  work->train(master);
  const ops::BlockWeight weight(master, Tensor());
  weight.pack(shapes.stream);
  work->draw(result.ring, {rows, width});
  set_call(result, work, shapes, [&held = *work, weight](Ctx& ctx, size_t i) {
    return std::vector<Tensor>{ops::block_linear(ctx, {{columns(held.x[i]), &weight}})};
  });
  return result;
}

// Rows choose experts evenly, so that all weights are read once.
OpCase moe_case(const Shapes& shapes) {
  constexpr int64_t kExperts = 8, kChosen = 2;
  const int64_t width = chosen(shapes.options.in, 1024), hidden = chosen(shapes.options.out, 512);
  const int64_t rows = shapes.all_rows();
  // ring_of() refuses what does not fit, before it is drawn.
  ring_of(3.0 * kExperts * kF32Bytes * static_cast<double>(width) * static_cast<double>(hidden));
  const auto work = std::make_shared<Work>(shapes.memory());
  std::vector<ops::MoeExpert> experts(kExperts);
  const auto weight = [&](int64_t out, int64_t in) {
    const Tensor master = drawn({out, in}, 0.03f);
    if (shapes.options.backward) {
      work->train(master);
      return Weight::of_master(shapes.stream, master, Weight::Layout::kPanels);
    }
    Weight held(out, in, DType::kF32, Weight::Layout::kPanels, shapes.memory());
    held.write_rows(shapes.stream, 0, out, master.raw(), DType::kF32);
    return held;
  };
  for (ops::MoeExpert& expert : experts) {
    expert = {weight(hidden, width), weight(hidden, width), weight(width, hidden)};
  }
  ops::MoeRoutes routes = {Tensor({rows, kChosen}, DType::kI32), Tensor({rows, kChosen}, DType::kF32)};
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t first = n % (kExperts / 2), second = first + kExperts / 2;
    routes.experts.i32()[n * kChosen] = static_cast<int32_t>(first);
    routes.experts.i32()[n * kChosen + 1] = static_cast<int32_t>(second);
    for (int64_t k = 0; k < kChosen; ++k) routes.weights.f32()[n * kChosen + k] = 0.5f;
  }
  routes = {routes.experts.to(shapes.memory()), routes.weights.to(shapes.memory())};
  OpCase result;
  result.shape = fmt::format("N={} D={} F={} E={} k={}", rows, width, hidden, kExperts, kChosen);
  const auto weights = static_cast<double>(3 * width * hidden);
  result.operations(Peak::kF32) = 2 * weights * static_cast<double>(rows * kChosen);
  const auto read = static_cast<double>(std::min(kExperts, rows * kChosen));
  result.read_bytes = kF32Bytes * (weights * read + static_cast<double>(rows * width));
  result.written_bytes = kF32Bytes * static_cast<double>(rows * width);
  result.ring = ring_of(kF32Bytes * static_cast<double>(2 * rows * width));
  work->draw(result.ring, {rows, width});
  set_call(result, work, shapes, [&held = *work, experts, routes](Ctx& ctx, size_t i) {
    return std::vector<Tensor>{ops::moe_experts(ctx, held.x[i], routes, experts)};
  });
  return result;
}

}  // namespace carousel::bench
