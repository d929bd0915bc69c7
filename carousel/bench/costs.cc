// SPDX-License-Identifier: Apache-2.0
// This file has the formulas of costs, and the least times that follow from them and the rates of a machine.
#include "carousel/bench/costs.h"

#include <algorithm>
#include <numeric>

#include "carousel/core/quant_blocks.h"
#include "carousel/ops/kernel.h"

namespace carousel::bench {
namespace {

double sum_of(std::span<const int64_t> values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), int64_t{0}));
}

/// A continuous-time cell: x and the state are read, y and the state written.
Cost cell_cost(double row_flops, int64_t inputs, int64_t units, int64_t outputs, std::span<const int64_t> lengths) {
  const double rows = sum_of(lengths);
  const double state = kF32Bytes * static_cast<double>(lengths.size()) * static_cast<double>(units);
  Cost cost;
  cost.operations(Peak::kF32) = rows * row_flops;
  cost.read_bytes = kF32Bytes * rows * static_cast<double>(inputs) + state;
  cost.written_bytes = kF32Bytes * rows * static_cast<double>(outputs) + state;
  return cost;
}

}  // namespace

Peak product_peak(const Stream& stream, DType dtype) {
  const bool widens = kernel_traits(*stream.memory).widens_blocks;
  if (stream.compute == Compute::kBF16) {
    if (widens && (dtype == DType::kBF16 || is_block(dtype))) return Peak::kBF16;
    if (dtype == DType::kBF16 && stream.isa == Isa::kAvx512) return Peak::kBF16;
  }
  return is_block(dtype) && !widens ? Peak::kInt8 : Peak::kF32;
}

Peak cell_peak(const Stream& stream) {
  return kernel_traits(*stream.memory).narrow_cells && stream.compute == Compute::kBF16 ? Peak::kBF16 : Peak::kF32;
}

Cost& Cost::operator+=(const Cost& other) {
  for (size_t i = 0; i < flops.size(); ++i) flops[i] += other.flops[i];
  read_bytes += other.read_bytes;
  written_bytes += other.written_bytes;
  cache_bytes += other.cache_bytes;
  cached_bytes = std::max(cached_bytes, other.cached_bytes);
  return *this;
}

Cost linear_cost(const Stream& stream, const Weight& weight, double multiplies, int64_t rows) {
  Cost cost;
  const bool listed = weight.as<SparsePanels>() != nullptr;
  cost.operations(listed ? Peak::kF32 : product_peak(stream, weight.dtype())) =
      2 * static_cast<double>(rows) * multiplies;
  cost.read_bytes = static_cast<double>(weight.size_bytes()) + kF32Bytes * static_cast<double>(rows * weight.cols());
  cost.written_bytes = kF32Bytes * static_cast<double>(rows * weight.rows());
  return cost;
}

Cost slstm_cost(const ops::SlstmDims& dims, std::span<const int64_t> lengths, int threads) {
  const auto width = static_cast<double>(dims.heads * dims.dh);
  const double elements = sum_of(lengths) * width, matrix = 4 * kF32Bytes * width * static_cast<double>(dims.dh);
  const double state = 4 * kF32Bytes * static_cast<double>(lengths.size()) * width;
  Cost cost;
  for (const int64_t rows : lengths) cost.operations(Peak::kF32) += ops::slstm_flops(dims, rows);
  cost.read_bytes = 4 * kF32Bytes * elements + matrix + state;
  cost.written_bytes = kF32Bytes * elements + state;
  // R is read at least once per step, however many sequences there are, from the cache that holds it. Heads do not
  // depend on each other, so a thread may read one of them at a time.
  const int64_t steps = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  cost.cache_bytes = matrix * static_cast<double>(steps);
  cost.cached_bytes = static_cast<size_t>(matrix) / static_cast<size_t>(std::max<int64_t>(dims.heads, threads));
  return cost;
}

Cost mlstm_cost(const ops::MlstmDims& dims, std::span<const int64_t> lengths, Peak peak) {
  const auto dk = static_cast<double>(dims.dk), dv = static_cast<double>(dims.dv);
  const double head_rows = sum_of(lengths) * static_cast<double>(dims.heads);
  const double state =
      kF32Bytes * static_cast<double>(lengths.size()) * static_cast<double>(dims.heads) * (dk * dv + dk + 1);
  Cost cost;
  for (const int64_t rows : lengths) cost.operations(peak) += ops::mlstm_flops(dims, rows);
  cost.read_bytes = head_rows * kF32Bytes * (2 * dk + dv + 2) + state;
  cost.written_bytes = head_rows * kF32Bytes * dv + state;
  return cost;
}

Cost attention_cost(const ops::AttentionDims& dims, std::span<const int64_t> lengths, std::span<const int64_t> depths,
                    Peak peak) {
  const double row_bytes = 2 * kF32Bytes * static_cast<double>(dims.kv_heads * dims.head_dim);
  const auto width = static_cast<double>((dims.heads + 2 * dims.kv_heads) * dims.head_dim);
  Cost cost;
  for (size_t s = 0; s < lengths.size(); ++s) {
    const int64_t read = dims.window > 0 ? std::min(depths[s], dims.window) : depths[s];
    cost.operations(peak) += ops::attention_flops(dims, lengths[s], depths[s]);
    cost.read_bytes += static_cast<double>(read) * row_bytes;
  }
  const double rows = sum_of(lengths);
  cost.read_bytes += rows * kF32Bytes * width;
  cost.written_bytes = rows * (kF32Bytes * static_cast<double>(dims.heads * dims.head_dim) + row_bytes);
  return cost;
}

Cost short_conv_cost(int64_t width, int64_t taps, bool gated, std::span<const int64_t> lengths) {
  const double elements = sum_of(lengths) * static_cast<double>(width);
  const double state = kF32Bytes * static_cast<double>(lengths.size()) * static_cast<double>((taps - 1) * width);
  Cost cost;
  cost.operations(Peak::kF32) = elements * (2 * static_cast<double>(taps) + (gated ? 2 : 0));
  cost.read_bytes = (gated ? 3 : 1) * kF32Bytes * elements + state;
  cost.written_bytes = kF32Bytes * elements + state;
  return cost;
}

Cost cfc_cost(const ops::CfcCell& cell, std::span<const int64_t> lengths) {
  double flops = 0;  // of a row: products, and a function of what maps give; two of the heads' four share one
  const auto add = [&](const ops::CellMap& map, int64_t functions) {
    if (!map.defined()) return;
    const auto units = static_cast<double>(map.units());
    flops += units * (2 * static_cast<double>(map.inputs() * map.parts()) + kSigmoid * static_cast<double>(functions));
  };
  for (const ops::CfcLayer& layer : cell.layers) {
    for (const ops::CellMap& map : layer.backbone) add(map, 1);
    add(layer.heads, std::min<int64_t>(layer.heads.defined() ? layer.heads.parts() : 0, 3));
  }
  add(cell.memory, cell.memory.defined() ? cell.memory.parts() : 0);
  const int64_t outputs = cell.layers.empty() ? 0 : cell.layers.back().units;
  return cell_cost(flops, cell.inputs, cell.units(), outputs, lengths);
}

Cost ltc_cost(const LtcSizes& sizes, std::span<const int64_t> lengths) {
  // A synapse: its sigmoid, and a multiply-add of each of two sums.
  const auto opened = static_cast<double>(sizes.units * (sizes.inputs + sizes.unfolds * sizes.units));
  return cell_cost(opened * (kSigmoid + 6), sizes.inputs, sizes.units, sizes.outputs, lengths);
}

Cost norm_cost(int64_t rows, int64_t width, bool adds) {
  const double elements = static_cast<double>(rows) * static_cast<double>(width);
  Cost cost;
  cost.operations(Peak::kF32) = (adds ? 5 : 4) * elements;  // add, square, sum, and two factors
  cost.read_bytes = cost.written_bytes = (adds ? 2 : 1) * kF32Bytes * elements;
  return cost;
}

Cost gated_unit_cost(int64_t rows, int64_t width) {
  return elementwise_cost(static_cast<double>(rows) * static_cast<double>(width), 2, kSigmoid + 2);
}

Cost block_linear_cost(int64_t rows, int64_t width, int64_t size) {
  const double elements = static_cast<double>(rows) * static_cast<double>(width);
  Cost cost = elementwise_cost(elements, 1, 2 * static_cast<double>(size));
  cost.read_bytes += kF32Bytes * static_cast<double>(width * size);
  return cost;
}

Cost elementwise_cost(double count, double reads, double flops_each) {
  Cost cost;
  cost.operations(Peak::kF32) = flops_each * count;
  cost.read_bytes = reads * kF32Bytes * count;
  cost.written_bytes = kF32Bytes * count;
  return cost;
}

LeastTime least_time(const Cost& cost, const Samples& samples) {
  LeastTime least;
  const auto consider = [&](double seconds, double rate, Bound bound) {
    if (seconds > least.seconds) least = {seconds, bound, rate};
  };
  const double read = samples.median(&Sample::read);
  const double scale = samples.median(&Sample::scale), cache = samples.median(&Sample::cache);
  // Operations of one peak and of another take turns. An instruction set that lacks a type computes it in f32.
  const double f32 = std::max(samples.median(&Sample::f32), 1e-9);
  const auto rate = [&](double Sample::*field) { return samples.median(field) > 0 ? samples.median(field) : f32; };
  const struct {
    Bound bound;
    double operations, rate;
  } parts[] = {{Bound::kF32, cost.operations(Peak::kF32), f32},
               {Bound::kBF16, cost.operations(Peak::kBF16), rate(&Sample::bf16)},
               {Bound::kInt8, cost.operations(Peak::kInt8), rate(&Sample::int8)}};
  double computing = 0, longest = 0;
  Bound name = Bound::kF32;
  for (const auto& part : parts) {
    const double seconds = part.operations / part.rate * 1e-9;
    computing += seconds;
    if (seconds > longest) longest = seconds, name = part.bound;
  }
  consider(computing, computing > 0 ? cost.all_operations() / computing * 1e-9 : 0, name);
  // Each byte written is paired with a byte read, as in scaling; the remaining bytes are only read or only written.
  const double pairs = std::min(cost.read_bytes, cost.written_bytes);
  const double memory =
      ((cost.written_bytes + pairs) / std::max(scale, 1e-9) + (cost.read_bytes - pairs) / std::max(read, 1e-9)) * 1e-9;
  consider(memory, memory > 0 ? (cost.read_bytes + cost.written_bytes) / memory * 1e-9 : 0, Bound::kMemory);
  if (cache > 0) consider(cost.cache_bytes / cache * 1e-9, cache, Bound::kCache);
  return least;
}

}  // namespace carousel::bench
