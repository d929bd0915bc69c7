// SPDX-License-Identifier: Apache-2.0
// The operands of each op of `bench --op`, and the operations and bytes that its formula needs (a kernel may spend
// more). Inputs, weights and states exist several times, so that each call finds its own in memory and not in a cache,
// as in a model.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "carousel/bench/op_makers.h"
#include "carousel/bench/ops.h"
#include "carousel/blocks/projection_wirings.h"
#include "carousel/core/error.h"
#include "carousel/ops/attention/attention.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/mlstm/mlstm.h"
#include "carousel/ops/norm/norm.h"
#include "carousel/ops/params.h"
#include "carousel/ops/short_conv/short_conv.h"
#include "carousel/ops/slstm/slstm.h"

namespace carousel::bench {
namespace {

OpCase slstm_case(const Shapes& shapes) {
  const ops::SlstmDims dims{chosen(shapes.options.heads, 4), chosen(shapes.options.head_dim, 256)};
  const int64_t heads = dims.heads, dh = dims.dh, width = heads * dh, rows = shapes.all_rows();
  OpCase result = case_of(shapes, slstm_cost(dims, shapes.lengths(), shapes.stream.pool->threads()));
  result.shape = fmt::format("B={} T={} H={} d={}", shapes.batch, shapes.rows, heads, dh);

  const auto work = std::make_shared<Work>(shapes.memory());
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dh)));
  const Tensor matrices = drawn({heads, dh, 4 * dh}, scale, shapes.memory());
  work->train(matrices);
  const ops::SlstmRecurrent recurrent(matrices, dims);
  recurrent.pack(shapes.stream);
  const Shape row{width};
  work->layout.add(
      "0", {{"y", DType::kF32, row}, {"c", DType::kF32, row}, {"n", DType::kF32, row}, {"m", DType::kF32, row}});
  work->draw(result.ring, {rows, 4 * width});
  work->add_states(result.ring, shapes);
  set_call(result, work, shapes, [&held = *work, recurrent](Ctx& ctx, size_t i) {
    const OpBatch& batch = *held.batches[i];
    return std::vector<Tensor>{ops::slstm(ctx, held.x[i], recurrent, batch.seqs, batch.bound.layer(0))};
  });
  return result;
}

OpCase mlstm_case(const Shapes& shapes) {
  ops::MlstmDims dims;
  dims.heads = chosen(shapes.options.heads, 8);
  dims.dk = chosen(shapes.options.head_dim, 256);
  dims.dv = chosen(shapes.options.value_dim, 2 * dims.dk);
  const int64_t heads = dims.heads, rows = shapes.all_rows(), width = heads * (2 * dims.dk + dims.dv + 2);
  OpCase result = case_of(shapes, mlstm_cost(dims, shapes.lengths(), cell_peak(shapes.stream)));
  result.shape = fmt::format("B={} T={} H={} dk={} dv={}", shapes.batch, shapes.rows, heads, dims.dk, dims.dv);

  const auto work = std::make_shared<Work>(shapes.memory());
  work->layout.add("0", {{"C", DType::kF32, Shape{heads, dims.dk, dims.dv}},
                         {"n", DType::kF32, Shape{heads, dims.dk}},
                         {"m", DType::kF32, Shape{heads}}});
  work->draw(result.ring, {rows, width});
  work->add_states(result.ring, shapes);
  set_call(result, work, shapes, [&held = *work, dims](Ctx& ctx, size_t i) {
    const OpBatch& batch = *held.batches[i];
    const int64_t qk = dims.heads * dims.dk, v = dims.heads * dims.dv;
    const Tensor& x = held.x[i];
    const ops::MlstmInputs inputs = {columns(x, 0, qk), columns(x, qk, qk), columns(x, 2 * qk, v),
                                     columns(x, 2 * qk + v, dims.heads),
                                     columns(x, 2 * qk + v + dims.heads, dims.heads)};
    return std::vector<Tensor>{ops::mlstm(ctx, inputs, dims, batch.seqs, batch.bound.layer(0))};
  });
  return result;
}

/// The mask that a wiring of type "random" draws; null for 0 percent.
std::shared_ptr<const Mask> sparse_mask(int64_t rows, int64_t cols, int64_t percent) {
  if (percent == 0) return nullptr;
  const Json wiring = {{"type", "random"}, {"sparsity", static_cast<double>(percent) / 100}, {"seed", kDrawSeed}};
  Json section = {{"wiring", {{"weight", wiring}}}};
  return blocks::ProjectionWirings(section, "bench").find("weight", "weight", rows, cols).mask;
}

OpCase linear_case(const Shapes& shapes) {
  const int64_t in = chosen(shapes.options.in, 4096), out = chosen(shapes.options.out, 4096), rows = shapes.all_rows();
  const DType dtype = shapes.weights;
  const double weights = static_cast<double>(in) * static_cast<double>(out);
  ring_of(weights * kF32Bytes);  // weights are drawn in f32
  Init init;
  init.mask = sparse_mask(out, in, shapes.sparsity);
  const Weight weight = weight_for(init, out, in, dtype, Weight::Layout::kPanels, Memory::meta());
  const Tensor values = drawn({out, in}, static_cast<float>(1 / std::sqrt(static_cast<double>(in))));
  OpCase result = case_of(
      shapes, linear_cost(shapes.stream, weight, init.mask ? static_cast<double>(init.mask->live()) : weights, rows));
  result.shape = fmt::format("N={} K={} M={} {}", rows, in, out, dtype_name(dtype));
  if (init.mask) {
    result.shape += fmt::format(" {}% masked", shapes.sparsity);
    impose_mask(*init.mask, values.f32());
  }
  const auto work = std::make_shared<Work>(shapes.memory());
  work->hold(result.ring);
  // In a model the op before has just written x: a cache still holds a row of it, and does not hold the weights.
  for (size_t i = 0; i < work->out.size(); ++i) work->x.push_back(drawn({rows, in}, 1.0f, shapes.memory()));
  for (size_t i = 0; i < result.ring; ++i) {
    if (shapes.options.backward) {
      work->weights.push_back(Weight::of_master(shapes.stream, values, Weight::Layout::kPanels));
      continue;
    }
    work->weights.push_back(weight_for(init, out, in, dtype, Weight::Layout::kPanels, shapes.memory()));
    work->weights.back().write_rows(shapes.stream, 0, out, values.raw(), DType::kF32);
  }
  if (shapes.options.backward) work->train(values);
  set_call(result, work, shapes, [&held = *work](Ctx& ctx, size_t i) {
    return std::vector<Tensor>{ops::linear(ctx, held.x[i % held.x.size()], {&held.weights[i]})};
  });
  return result;
}

OpCase conv_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), taps_count = chosen(shapes.options.taps, 3);
  OpCase result = case_of(shapes, short_conv_cost(width, taps_count, true, shapes.lengths()));
  result.shape = fmt::format("B={} T={} D={} K={}", shapes.batch, shapes.rows, width, taps_count);

  const auto work = std::make_shared<Work>(shapes.memory());
  const Tensor master = drawn({width, 1, taps_count}, 1.0f, shapes.memory());
  work->train(master);
  const ops::ConvTaps taps(master, {});
  taps.pack(shapes.stream);
  work->layout.add("0", {{"u", DType::kF32, Shape{taps_count - 1, width}}});
  work->draw(result.ring, {shapes.all_rows(), 3 * width});
  work->add_states(result.ring, shapes);
  set_call(result, work, shapes, [&held = *work, taps](Ctx& ctx, size_t i) {
    const OpBatch& batch = *held.batches[i];
    return std::vector<Tensor>{ops::short_conv(ctx, held.x[i], taps, batch.seqs, batch.bound.layer(0))};
  });
  return result;
}

OpCase attention_case(const Shapes& shapes) {
  ops::AttentionDims dims;
  dims.heads = chosen(shapes.options.heads, 32);
  dims.kv_heads = chosen(shapes.options.kv_heads, dims.heads % 4 == 0 ? dims.heads / 4 : dims.heads);
  dims.head_dim = chosen(shapes.options.head_dim, 64);
  if (dims.heads % dims.kv_heads != 0) {
    fail(ErrorKind::kUsage, "--kv-heads: got {} for {} heads, expected a divisor of them", dims.kv_heads, dims.heads);
  }
  const int64_t head_dim = dims.head_dim, width = (dims.heads + 2 * dims.kv_heads) * head_dim;
  OpCase result = case_of(shapes, attention_cost(dims, shapes.lengths(), shapes.depths(), cell_peak(shapes.stream)));
  result.shape = fmt::format("B={} T={}@{} H={} G={} d={}", shapes.batch, shapes.rows, shapes.depth, dims.heads,
                             dims.kv_heads, head_dim);

  const auto work = std::make_shared<Work>(shapes.memory());
  work->layout.add("0", {{"k", DType::kF32, Shape{dims.kv_heads, head_dim, kPageRows}, true},
                         {"v", DType::kF32, Shape{dims.kv_heads, kPageRows, head_dim}, true}});
  work->draw(result.ring, {shapes.all_rows(), width});
  work->add_states(result.ring, shapes);
  set_call(result, work, shapes, [&held = *work, dims](Ctx& ctx, size_t i) {
    const OpBatch& batch = *held.batches[i];
    return std::vector<Tensor>{ops::attention(ctx, held.x[i], dims, batch.seqs, batch.bound.layer(0))};
  });
  return result;
}

OpCase norm_case(const Shapes& shapes) {
  const int64_t width = chosen(shapes.options.in, 2048), rows = shapes.all_rows();
  OpCase result = case_of(shapes, norm_cost(rows, width, true));
  result.shape = fmt::format("N={} D={}", rows, width);

  const auto work = std::make_shared<Work>(shapes.memory());
  const ops::Norm norm = work->draw_normed(result.ring, rows, width);
  set_call(result, work, shapes, [&held = *work, norm](Ctx& ctx, size_t i) {
    const ops::AddNorm both = ops::add_norm(ctx, held.x[i], held.y[i], norm);
    return std::vector<Tensor>{both.sum, both.normed};
  });
  return result;
}

struct OpKind {
  const char* name;
  std::vector<int64_t> rows;       // the default of --rows
  std::vector<const char*> flags;  // the flags of OpOptions that the op takes
  OpCase (*make)(const Shapes&);
};

const std::vector<OpKind>& op_kinds() {
  static const std::vector<OpKind> kinds = {
      {"slstm", {512}, {"--heads", "--head-dim"}, slstm_case},
      {"mlstm", {1, 512}, {"--heads", "--head-dim", "--value-dim"}, mlstm_case},
      {"linear", {1, 512}, {"--in", "--out"}, linear_case},
      {"short_conv", {1, 512}, {"--in", "--taps"}, conv_case},
      {"attention", {1, 512}, {"--heads", "--kv-heads", "--head-dim"}, attention_case},
      {"norm", {1, 512}, {"--in"}, norm_case},
      {"gated_unit", {1, 512}, {"--in"}, gated_unit_case},
      {"block_linear", {1, 512}, {"--in", "--head-dim"}, block_linear_case},
      {"soft_cap", {1, 512}, {"--in"}, soft_cap_case},
      {"gate_heads", {1, 512}, {"--in", "--head-dim"}, gate_heads_case},
      {"head_norm", {1, 512}, {"--in", "--head-dim"}, head_norm_case},
      {"embedding", {1, 512}, {"--in", "--out"}, embedding_case},
      {"head", {512}, {"--in", "--out"}, head_case},
      {"moe", {1, 512}, {"--in", "--out"}, moe_case},
      {"cfc", {1, 512}, {"--in", "--out"}, cfc_case},
      {"ltc", {1, 512}, {"--in", "--out"}, ltc_case},
  };
  return kinds;
}

void refuse_other_flags(const OpOptions& options, const OpKind& kind) {
  const std::pair<const char*, int64_t> given[] = {{"--heads", options.heads},
                                                   {"--kv-heads", options.kv_heads},
                                                   {"--head-dim", options.head_dim},
                                                   {"--value-dim", options.value_dim},
                                                   {"--in", options.in},
                                                   {"--out", options.out},
                                                   {"--taps", options.taps}};
  if (options.op != "linear" && options.sparsity != std::vector<int64_t>{0}) {
    fail(ErrorKind::kUsage, "--sparsity: got {} for --op {}, expected --op linear", fmt::join(options.sparsity, ","),
         kind.name);
  }
  if (options.backward && options.sparsity != std::vector<int64_t>{0}) {
    fail(ErrorKind::kUsage, "--backward: got --sparsity {}, expected weights without a mask",
         fmt::join(options.sparsity, ","));
  }
  for (const auto& [flag, value] : given) {
    const auto same = [flag = std::string_view(flag)](const char* name) { return flag == name; };
    if (value > 0 && std::none_of(kind.flags.begin(), kind.flags.end(), same)) {
      fail(ErrorKind::kUsage, "{}: got {} for --op {}, expected only --rows, --batch, {}", flag, value, kind.name,
           fmt::join(kind.flags, ", "));
    }
  }
}

}  // namespace

std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const OpKind& kind : op_kinds()) names.emplace_back(kind.name);
  return names;
}

std::vector<OpCase> op_cases(const OpOptions& options, const std::vector<int64_t>& depths, DType weights,
                             const Stream& stream) {
  const auto kind =
      std::find_if(op_kinds().begin(), op_kinds().end(), [&](const OpKind& k) { return options.op == k.name; });
  CAROUSEL_ASSERT(kind != op_kinds().end());
  refuse_other_flags(options, *kind);
  if (options.backward && weights != DType::kF32) {
    fail(ErrorKind::kUsage, "--backward: got weights in {}, expected f32, which are trained", dtype_name(weights));
  }
  std::vector<OpCase> cases;
  for (const int64_t depth : options.op == "attention" ? depths : std::vector<int64_t>{0}) {
    for (const int64_t batch : options.batch) {
      for (const int64_t rows : options.rows.empty() ? kind->rows : options.rows) {
        for (const int64_t sparsity : options.sparsity) {
          cases.push_back(kind->make({options, batch, rows, depth, weights, stream, sparsity}));
          // The host's caches bound what an op reads again and again; a device apart does not have them.
          if (stream.memory->is_apart()) cases.back().cached_bytes = 0, cases.back().cache_bytes = 0;
        }
      }
    }
  }
  return cases;
}

}  // namespace carousel::bench
