// SPDX-License-Identifier: Apache-2.0
// What kernels with a profile's casts share: one row's norm, and products rounded once. For *_cast.cc files.
#pragma once

#include "carousel/cpu/rounding.h"
#include "carousel/ops/norm/norm_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {

struct CastNorm {
  ops::NormArgs args;  // weight and bias from the row's first column on
  Numerics::Norm rule;
  DType activations;
};

/// out [width] = norm(x) * weight + bias (either may be null); out may be x.
inline void cast_norm_row(const CastNorm& norm, const float* x, int64_t width, float* out) {
  const Rounding round(norm.activations), reduced(norm.rule.reduction);
  const float *weight = norm.args.weight, *bias = norm.args.bias;
  const auto scale_of = [&](int64_t j) { return norm.args.weight_offset + weight[j]; };
  if (norm.args.kind == ops::Norm::Kind::kNone) {
    for (int64_t j = 0; j < width; ++j) out[j] = x[j];
  } else {
    const bool layer = norm.args.kind == ops::Norm::Kind::kLayer;
    double sum = 0, squares = 0;
    for (int64_t j = 0; j < width && layer; ++j) sum += static_cast<double>(x[j]);
    const double exact_mean = sum / static_cast<double>(width);
    const float mean = reduced(static_cast<float>(exact_mean));
    for (int64_t j = 0; j < width; ++j) {
      const float centred = static_cast<float>(static_cast<double>(x[j]) - exact_mean);
      squares += layer ? static_cast<double>(centred * centred) : static_cast<double>(reduced(x[j] * x[j]));
    }
    const int64_t count = layer && norm.rule.unbiased_variance && width > 1 ? width - 1 : width;
    const float variance = reduced(static_cast<float>(squares / static_cast<double>(count)));
    const float scale = norm.rule.eps_outside_root
                            ? reduced(1.0f / reduced(reduced(std::sqrt(variance)) + norm.args.eps))
                            : reduced(1.0f / std::sqrt(reduced(variance + norm.args.eps)));
    for (int64_t j = 0; j < width; ++j) out[j] = reduced(reduced(x[j] - mean) * scale);
  }
  if (norm.rule.cast_before_weight) {
    for (int64_t j = 0; j < width; ++j) {
      float v = round(out[j]);
      if (weight != nullptr) v = round(v * scale_of(j));
      out[j] = bias != nullptr ? round(v + bias[j]) : v;
    }
    return;
  }
  for (int64_t j = 0; j < width; ++j) {
    float v = out[j];
    if (weight != nullptr) v *= scale_of(j);
    out[j] = round(bias != nullptr ? v + bias[j] : v);
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
