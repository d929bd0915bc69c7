// SPDX-License-Identifier: Apache-2.0
// Attention as a plain softmax in f64.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "carousel/ops/attention/attention.h"
#include "tests/ops/machine.h"

namespace carousel {

inline ops::AttentionDims attention_dims(int64_t heads, int64_t kv_heads, int64_t d, bool norm = true,
                                         bool rotate = true) {
  ops::AttentionDims dims;
  dims.heads = heads;
  dims.kv_heads = kv_heads;
  dims.head_dim = d;
  if (norm) {
    dims.q_norm = random_tensor({d}, 101, 0.3f, 1.0f);
    dims.k_norm = random_tensor({d}, 102, 0.3f, 1.0f);
  }
  if (rotate) {
    dims.inv_freq = Tensor({d / 2}, DType::kF32);
    for (int64_t j = 0; j < d / 2; ++j) {
      dims.inv_freq.f32()[j] = static_cast<float>(std::pow(1e4, -2.0 * double(j) / double(d)));
    }
  }
  return dims;
}

/// Only the first 2 * pairs elements of a head rotate.
inline ops::AttentionDims partly_rotated(ops::AttentionDims dims, int64_t pairs) {
  dims.inv_freq = dims.inv_freq.rows(0, pairs);
  return dims;
}

inline ops::AttentionDims windowed(ops::AttentionDims dims, int64_t window) {
  dims.window = window;
  return dims;
}

inline StateLayout attention_layout(const ops::AttentionDims& dims) {
  StateLayout layout;
  layout.add("0", {{"k", DType::kF32, {dims.kv_heads, dims.head_dim, kPageRows}, true},
                   {"v", DType::kF32, {dims.kv_heads, kPageRows, dims.head_dim}, true}});
  return layout;
}

/// What attention reads of one sequence that starts at position 0.
struct AttentionValues {
  std::vector<double> qkv;             // [T, (H + 2G) d]
  std::vector<double> q_norm, k_norm;  // [d], or empty
};

/// One head of one row, normed and rotated.
inline std::vector<double> prepared_reference(const double* x, const std::vector<double>& norm,
                                              const ops::AttentionDims& dims, int64_t pos) {
  const auto d = static_cast<size_t>(dims.head_dim);
  std::vector<double> y(x, x + d);
  if (!norm.empty()) {
    double squares = 0;
    for (const double value : y) squares += value * value;
    for (size_t j = 0; j < d; ++j) y[j] *= norm[j] / std::sqrt(squares / double(d) + double{dims.norm_eps});
  }
  if (!dims.inv_freq.defined()) return y;
  std::vector<double> z = y;
  const auto half = static_cast<size_t>(dims.inv_freq.dim(0));  // the rest of the head is not rotated
  for (size_t j = 0; j < half; ++j) {
    const float angle = static_cast<float>(pos) * dims.inv_freq.f32()[j];
    const double c = std::cos(double{angle}), s = std::sin(double{angle});
    z[j] = y[j] * c - y[j + half] * s;
    z[j + half] = y[j + half] * c + y[j] * s;
  }
  return z;
}

/// [T - from, H*d] of times from .. T.
inline std::vector<double> attention_reference(const AttentionValues& values, const ops::AttentionDims& dims,
                                               int64_t from = 0) {
  const int64_t d = dims.head_dim, heads = dims.heads, kv_heads = dims.kv_heads, stride = (heads + 2 * kv_heads) * d;
  const int64_t rows = static_cast<int64_t>(values.qkv.size()) / stride;
  std::vector<std::vector<double>> keys;  // [T * G]
  for (int64_t u = 0; u < rows; ++u) {
    for (int64_t g = 0; g < kv_heads; ++g) {
      keys.push_back(prepared_reference(values.qkv.data() + u * stride + (heads + g) * d, values.k_norm, dims, u));
    }
  }
  std::vector<double> out, scores;
  for (int64_t t = from; t < rows; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t g = h / (heads / kv_heads);
      const std::vector<double> q = prepared_reference(values.qkv.data() + t * stride + h * d, values.q_norm, dims, t);
      std::vector<double> sum(static_cast<size_t>(d), 0);
      scores.clear();
      double best = -INFINITY, total = 0;
      const int64_t begin = dims.window > 0 ? std::max<int64_t>(0, t + 1 - dims.window) : 0;
      for (int64_t u = begin; u <= t; ++u) {
        const std::vector<double>& k = keys[static_cast<size_t>(u * kv_heads + g)];
        double score = 0;
        for (size_t j = 0; j < k.size(); ++j) score += q[j] * k[j];
        scores.push_back(score / std::sqrt(double(d)));
        best = std::max(best, scores.back());
      }
      for (int64_t u = begin; u <= t; ++u) {
        const double* v = values.qkv.data() + u * stride + (heads + kv_heads + g) * d;
        const double p = std::exp(scores[static_cast<size_t>(u - begin)] - best);
        total += p;
        for (int64_t j = 0; j < d; ++j) sum[static_cast<size_t>(j)] += p * v[j];
      }
      for (const double value : sum) out.push_back(value / total);
    }
  }
  return out;
}

}  // namespace carousel
