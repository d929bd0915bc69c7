// SPDX-License-Identifier: Apache-2.0
// How a block names, shapes and initialises its parameters, written once: the same constructor reads a checkpoint,
// draws fresh values, writes them, or only counts them, depending on the ParamSource behind it (model/params.h).
#pragma once

#include <cstdint>
#include <string>

#include "carousel/core/tensor.h"
#include "carousel/ops/weight.h"

namespace carousel {

/// How a fresh parameter is drawn.
struct Init {
  enum class Kind : uint8_t { kConstant, kNormal, kUniform, kLinspace };
  Kind kind = Kind::kConstant;
  double a = 0;  // constant: the value; normal: standard deviation; uniform: half width; linspace: first
  double b = 0;  // linspace: last

  static Init constant(double value) { return {Kind::kConstant, value, 0}; }
  static Init normal(double deviation) { return {Kind::kNormal, deviation, 0}; }
  static Init uniform(double half_width) { return {Kind::kUniform, half_width, 0}; }
  static Init linspace(double first, double last) { return {Kind::kLinspace, first, last}; }
  /// N(0, sqrt(2 / (5 D))): input projections and embeddings (Nguyen and Salazar, arXiv:1910.05895).
  static Init small(int64_t dim);
  /// N(0, 2 / (L sqrt(D))): projections into the residual stream (GPT-NeoX, arXiv:2204.06745).
  static Init wang(int64_t dim, int64_t layers);
};

class ParamSource {
 public:
  virtual ~ParamSource() = default;
  /// The matrix `name` [rows, cols], packed. Throws kInput naming what is missing or misshaped.
  virtual Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                        const Init& init) = 0;
  /// The tensor `name` of `shape`, in f32.
  virtual Tensor tensor(const std::string& name, const Shape& shape, const Init& init) = 0;
};

/// A source seen from one place in the model: names are relative to it.
class Params {
 public:
  Params(ParamSource& source, std::string prefix) : source_(&source), prefix_(std::move(prefix)) {}
  Params in(const std::string& name) const { return Params(*source_, prefix_ + name + "."); }

  /// A projection y = W x (+ b): "<name>.weight" [rows, cols] and, if asked, "<name>.bias" [rows].
  Weight projection(const std::string& name, int64_t rows, int64_t cols, const Init& init, bool bias = false,
                    const Init& bias_init = {}) {
    Weight weight = source_->matrix(prefix_ + name + ".weight", rows, cols, Weight::Layout::kPanels, init);
    if (bias) weight.bias = source_->tensor(prefix_ + name + ".bias", Shape{rows}, bias_init);
    return weight;
  }
  /// A look-up table "<name>.weight" [rows, cols].
  Weight table(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) {
    return source_->matrix(prefix_ + name + ".weight", rows, cols, layout, init);
  }
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) {
    return source_->tensor(prefix_ + name, shape, init);
  }

 private:
  ParamSource* source_;
  std::string prefix_;
};

}  // namespace carousel
