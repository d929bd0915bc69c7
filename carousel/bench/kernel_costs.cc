// SPDX-License-Identifier: Apache-2.0
// Every kernel that forwards call has a function here, which reads its arguments.
#include "carousel/bench/kernel_costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "carousel/ops/attention/attention_cpu.h"
#include "carousel/ops/cells/cfc_cpu.h"
#include "carousel/ops/cells/ltc_cpu.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/block_linear_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/mlstm/mlstm_cpu.h"
#include "carousel/ops/moe/moe_cpu.h"
#include "carousel/ops/norm/norm_cpu.h"
#include "carousel/ops/rows/rows_cpu.h"
#include "carousel/ops/short_conv/short_conv_cpu.h"
#include "carousel/ops/slstm/slstm_cpu.h"
#include "carousel/ops/tokens/embedding_cpu.h"

namespace carousel::bench {
namespace {

std::vector<int64_t> lengths_of(const SeqsView& seqs) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < seqs.batch; ++s) lengths.push_back(seqs.length(s));
  return lengths;
}
std::string rows_of(const SeqsView& seqs) { return fmt::format("B={} N={}", seqs.batch, seqs.rows()); }

/// The multiply-adds of a row. Nobody looks up how many weights a mask leaves: such a call is held against its bytes
/// alone.
double multiplies_of(const Weight& weight) {
  if (weight.as<SparsePanels>() != nullptr || weight.as<SparseBlocks>() != nullptr) return 0;
  return static_cast<double>(weight.rows()) * static_cast<double>(weight.cols());
}

KernelCall describe(const Stream& stream, const ops::LinearArgs& args) {
  KernelCall call;
  int64_t outputs = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    const Weight& weight = *args.weights[i];
    call.cost += linear_cost(stream, weight, multiplies_of(weight), args.N);
    outputs += weight.rows();
  }
  call.cost.read_bytes -= kF32Bytes * static_cast<double>((args.count - 1) * args.N * args.K);  // x is read once
  call.shape = fmt::format("N={} K={} M={} {}", args.N, args.K, outputs, dtype_name(args.weights[0]->dtype()));
  return call;
}

KernelCall describe(const Stream& stream, const ops::FeedForwardArgs& args) {
  KernelCall call;
  for (const Weight* weight : {args.gate, args.up, args.down}) {
    call.cost += linear_cost(stream, *weight, multiplies_of(*weight), args.N);
  }
  // x is read once, and the hidden units stay in caches.
  call.cost.read_bytes -= kF32Bytes * static_cast<double>(args.N * (args.D + args.gate->rows()));
  call.cost.written_bytes = kF32Bytes * static_cast<double>(args.N * args.down->rows());
  call.shape = fmt::format("N={} D={} F={} {}", args.N, args.D, args.gate->rows(), dtype_name(args.gate->dtype()));
  return call;
}

KernelCall describe(const Stream& stream, const ops::MoeExpertsArgs& args) {
  const ops::MoeExpert& one = args.experts[0];
  std::set<int32_t> experts;  // those chosen, which code of the host can read on the CPU alone
  if (!stream.memory->is_apart()) experts.insert(args.chosen, args.chosen + args.rows * args.top_k);
  const auto read = std::max(static_cast<int64_t>(experts.size()), args.rows > 0 ? args.top_k : 0);
  KernelCall call;
  for (const Weight* weight : {&one.gate, &one.up, &one.down}) {
    call.cost.operations(product_peak(stream, weight->dtype())) +=
        2 * static_cast<double>(args.rows * args.top_k) * multiplies_of(*weight);
    call.cost.read_bytes += static_cast<double>(read) * static_cast<double>(weight->size_bytes());
  }
  call.cost.read_bytes += kF32Bytes * static_cast<double>(args.rows * args.width);
  call.cost.written_bytes = kF32Bytes * static_cast<double>(args.rows * args.width);
  call.shape = fmt::format("N={} D={} F={} E={} k={} {}", args.rows, args.width, one.gate.rows(), args.count,
                           args.top_k, dtype_name(one.gate.dtype()));
  return call;
}

KernelCall describe(const Stream& stream, const ops::AttentionArgs& args) {
  ops::AttentionDims dims;
  dims.heads = args.heads;
  dims.kv_heads = args.kv_heads;
  dims.head_dim = args.head_dim;
  dims.window = args.window;
  const std::vector<int64_t> depths(args.seqs.pos, args.seqs.pos + args.seqs.batch);
  return {fmt::format("{} H={} G={} d={}", rows_of(args.seqs), args.heads, args.kv_heads, args.head_dim),
          attention_cost(dims, lengths_of(args.seqs), depths, cell_peak(stream))};
}
KernelCall describe(const Stream& stream, const ops::MlstmArgs& args) {
  return {fmt::format("{} H={} dk={} dv={}", rows_of(args.seqs), args.dims.heads, args.dims.dk, args.dims.dv),
          mlstm_cost(args.dims, lengths_of(args.seqs), cell_peak(stream))};
}
KernelCall describe(const Stream& stream, const ops::SlstmArgs& args) {
  return {fmt::format("{} H={} d={}", rows_of(args.seqs), args.dims.heads, args.dims.dh),
          slstm_cost(args.dims, lengths_of(args.seqs), stream.threads())};
}
KernelCall describe(const Stream& /*stream*/, const ops::ShortConvArgs& args) {
  return {fmt::format("{} D={} K={}", rows_of(args.seqs), args.width, args.taps_count),
          short_conv_cost(args.width, args.taps_count, args.b.data != nullptr, lengths_of(args.seqs))};
}
KernelCall describe(const Stream& /*stream*/, const ops::CfcArgs& args) {
  const SeqsView& seqs = args.batch.seqs;
  return {fmt::format("{} I={} H={}", rows_of(seqs), args.cell->inputs, args.cell->units()),
          cfc_cost(*args.cell, lengths_of(seqs))};
}
KernelCall describe(const Stream& /*stream*/, const ops::LtcArgs& args) {
  const SeqsView& seqs = args.batch.seqs;
  return {fmt::format("{} I={} H={}", rows_of(seqs), args.inputs, args.units),
          ltc_cost({args.inputs, args.units, args.outputs, args.unfolds}, lengths_of(seqs))};
}

KernelCall describe(const Stream& /*stream*/, const ops::AddNormArgs& args) {
  return {fmt::format("N={} D={}", args.rows, args.width), norm_cost(args.rows, args.width, args.y.data != nullptr)};
}
KernelCall describe(const Stream& /*stream*/, const ops::HeadNormArgs& args) {
  Cost cost = norm_cost(args.rows, args.heads * args.dv, false);
  const bool gated = args.gate != ops::NormGate::Kind::kNone;
  cost.read_bytes *= 1 + (gated ? 1 : 0) + (args.skip.data != nullptr ? 1 : 0);
  return {fmt::format("N={} H={} d={}", args.rows, args.heads, args.dv), cost};
}
KernelCall describe(const Stream& /*stream*/, const ops::GatedUnitArgs& args) {
  return {fmt::format("N={} F={}", args.rows, args.width), gated_unit_cost(args.rows, args.width)};
}
KernelCall describe(const Stream& /*stream*/, const ops::SoftCapArgs& args) {
  return {fmt::format("{}", args.count), elementwise_cost(static_cast<double>(args.count), 1, kSigmoid + 2)};
}
KernelCall describe(const Stream& /*stream*/, const ops::GateHeadsArgs& args) {
  const auto count = static_cast<double>(args.rows * args.heads * args.dim);
  return {fmt::format("N={} H={} d={}", args.rows, args.heads, args.dim), elementwise_cost(count, 1, 1)};
}
KernelCall describe(const Stream& /*stream*/, const ops::ElementwiseArgs& args) {
  const double reads = args.y.data != nullptr ? 2 : 1;
  return {fmt::format("{}", args.count), elementwise_cost(static_cast<double>(args.count), reads, 1)};
}
KernelCall describe(const Stream& /*stream*/, const ops::BlockProductsArgs& args) {
  const ops::BlockWeight& weight = *args.parts[0].weight;
  KernelCall call;
  call.shape = fmt::format("N={} D={} block={} x {}", args.rows, weight.width(), weight.size(), args.count);
  const Cost one = block_linear_cost(args.rows, weight.width(), weight.size());
  for (int64_t i = 0; i < args.count; ++i) call.cost += one;
  return call;
}
KernelCall describe(const Stream& /*stream*/, const ops::MoeRouteArgs& args) {
  return {fmt::format("N={} E={} k={}", args.rows, args.count, args.top_k),
          elementwise_cost(static_cast<double>(args.rows * args.count), 1, kSigmoid)};
}
KernelCall describe(const Stream& /*stream*/, const ops::GatherRowsArgs& args) {
  return {fmt::format("N={} D={}", args.count, args.width),
          elementwise_cost(static_cast<double>(args.count * args.width), 1, 0)};
}
KernelCall describe(const Stream& /*stream*/, const ops::CopyColumnsArgs& args) {
  return {fmt::format("N={} D={}", args.rows, args.width),
          elementwise_cost(static_cast<double>(args.rows * args.width), 1, 0)};
}
KernelCall describe(const Stream& /*stream*/, const ops::EmbeddingArgs& args) {
  const double share = static_cast<double>(args.rows) / static_cast<double>(args.table->rows());
  Cost cost;
  cost.read_bytes = share * static_cast<double>(args.table->size_bytes());
  cost.written_bytes = kF32Bytes * static_cast<double>(args.rows * args.width);
  return {fmt::format("N={} D={} {}", args.rows, args.width, dtype_name(args.table->dtype())), cost};
}

struct Description {
  std::string_view op;
  KernelCall (*describe)(const Stream& stream, const void* args);
};
template <class Args>
constexpr Description of(std::string_view op) {
  return {op, [](const Stream& stream, const void* args) { return describe(stream, *static_cast<const Args*>(args)); }};
}

/// The kernels that forwards call.
constexpr Description kDescriptions[] = {
    of<ops::LinearArgs>("linear"),
    of<ops::FeedForwardArgs>("feed_forward"),
    of<ops::MoeExpertsArgs>("moe_experts"),
    of<ops::MoeRouteArgs>("moe_route"),
    of<ops::AttentionArgs>("attention"),
    of<ops::MlstmArgs>("mlstm"),
    of<ops::SlstmArgs>("slstm"),
    of<ops::ShortConvArgs>("short_conv"),
    of<ops::CfcArgs>("cfc"),
    of<ops::LtcArgs>("ltc"),
    of<ops::AddNormArgs>("add_norm"),
    of<ops::HeadNormArgs>("head_norm"),
    of<ops::GatedUnitArgs>("gated_unit"),
    of<ops::SoftCapArgs>("soft_cap"),
    of<ops::GateHeadsArgs>("gate_heads"),
    of<ops::ElementwiseArgs>("relu"),
    of<ops::ElementwiseArgs>("add"),
    of<ops::BlockProductsArgs>("block_products"),
    of<ops::GatherRowsArgs>("gather_rows"),
    of<ops::CopyColumnsArgs>("copy_columns"),
    of<ops::EmbeddingArgs>("embedding"),
};

}  // namespace

KernelCall describe_call(const Stream& stream, std::string_view op, const void* args) {
  for (const Description& known : kDescriptions) {
    if (known.op == op) return known.describe(stream, args);
  }
  return {};
}

}  // namespace carousel::bench
