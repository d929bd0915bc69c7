// SPDX-License-Identifier: Apache-2.0
// Every op needs so much at least: the operations of its formula, and the bytes that it reads and writes. A kernel may
// spend more. Lengths are rows of each sequence, depths the rows that each has seen before.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "carousel/bench/samples.h"
#include "carousel/ops/attention/attention.h"
#include "carousel/ops/cells/cfc.h"
#include "carousel/ops/mlstm/mlstm.h"
#include "carousel/ops/slstm/slstm.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::bench {

constexpr double kF32Bytes = sizeof(float);
constexpr double kSigmoid = 20;  // operations that a sigmoid or tanh counts as

enum class Peak : uint8_t { kF32, kBF16, kInt8 };
/// The peak that bounds products with weights of this type.
Peak product_peak(const Stream& stream, DType dtype);
/// That of the mLSTM and of attention: devices apart have matrix units for them.
Peak cell_peak(const Stream& stream);

struct Cost {
  std::array<double, 3> flops = {};  // operations, by the peak that bounds them
  double read_bytes = 0;             // bytes read from memory
  double written_bytes = 0;          // bytes written to memory
  double cache_bytes = 0;            // bytes read again from a cache that holds `cached_bytes`
  size_t cached_bytes = 0;           // bytes a thread reads again and again

  double& operations(Peak peak) { return flops[static_cast<size_t>(peak)]; }
  double operations(Peak peak) const { return flops[static_cast<size_t>(peak)]; }
  double all_operations() const { return flops[0] + flops[1] + flops[2]; }
  /// Both calls. The larger of what they read again counts as what a thread reads again.
  Cost& operator+=(const Cost& other);
};

/// `multiplies` of each row: the weights that are not masked.
Cost linear_cost(const Stream& stream, const Weight& weight, double multiplies, int64_t rows);
Cost slstm_cost(const ops::SlstmDims& dims, std::span<const int64_t> lengths, int threads);
Cost mlstm_cost(const ops::MlstmDims& dims, std::span<const int64_t> lengths, Peak peak = Peak::kF32);
Cost attention_cost(const ops::AttentionDims& dims, std::span<const int64_t> lengths, std::span<const int64_t> depths,
                    Peak peak = Peak::kF32);
/// `gated`: x and the result have gates.
Cost short_conv_cost(int64_t width, int64_t taps, bool gated, std::span<const int64_t> lengths);
Cost cfc_cost(const ops::CfcCell& cell, std::span<const int64_t> lengths);
struct LtcSizes {
  int64_t inputs, units, outputs, unfolds;
};
/// Every neuron counts as wired to all inputs and neurons.
Cost ltc_cost(const LtcSizes& sizes, std::span<const int64_t> lengths);
/// `adds`: the sum of two inputs is normed, and written too.
Cost norm_cost(int64_t rows, int64_t width, bool adds);
Cost gated_unit_cost(int64_t rows, int64_t width);
Cost block_linear_cost(int64_t rows, int64_t width, int64_t size);
/// An elementwise op: `reads` values read for each that is written.
Cost elementwise_cost(double count, double reads, double flops_each);

/// The part of a cost that bounds its time: the one whose least time is the longest.
enum class Bound : uint8_t { kF32, kBF16, kInt8, kMemory, kCache };
struct LeastTime {
  double seconds = 0;
  Bound bound = Bound::kF32;
  double rate = 0;  // of that bound: GFLOP/s (kF32, kBF16), GOP/s (kInt8), GB/s
};
/// By the medians of what was measured beside the samples.
LeastTime least_time(const Cost& cost, const Samples& samples);

}  // namespace carousel::bench
