// SPDX-License-Identifier: Apache-2.0
// How a block names, shapes and initialises its parameters, written once: the same constructor reads a checkpoint,
// draws fresh values, writes them, or only counts them, depending on the ParamSource behind it (model/params.h).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "carousel/core/tensor.h"
#include "carousel/ops/weight/mask.h"
#include "carousel/ops/weight/weight.h"

namespace carousel {

/// How a fresh parameter is drawn.
struct Init {
  enum class Kind : uint8_t { kConstant, kNormal, kUniform, kLinspace, kOrthogonal, kCopied, kMask, kSigns };
  Kind kind = Kind::kConstant;
  // constant: the value; normal: standard deviation; uniform: half width; linspace: first; signs: probability of +1
  double a = 0;
  double b = 0;                                                // linspace: last; uniform: centre
  std::shared_ptr<const std::vector<float>> values = nullptr;  // copied: these; signs: +-1 where these are not 0
  // The other fields tell a source more about the parameter.
  double read_share = 1;  // the share of rows that are computed with it: few rows choose an expert
  bool keep_f32 = false;  // written in f32 whatever the model's dtype
  bool gate =
      false;  // a small matrix that steers: a gate per head, a router; rounding it would cost more than it saves
  bool fixed = false;                                       // training leaves it alone
  bool zero_or_one = false;                                 // a file that holds another value is refused
  double least = -std::numeric_limits<double>::infinity();  // training keeps values at or above it
  std::shared_ptr<const Mask> mask =
      nullptr;  // masks the values [mask->rows(), mask->cols()]; kMask: they are its entries

  static Init constant(double value) { return {Kind::kConstant, value}; }
  static Init normal(double deviation) { return {Kind::kNormal, deviation}; }
  static Init uniform(double half_width) { return {Kind::kUniform, half_width}; }
  static Init linspace(double first, double last) { return {Kind::kLinspace, first, last}; }
  /// Uniform over [low, high).
  static Init range(double low, double high) { return {Kind::kUniform, (high - low) / 2, (high + low) / 2}; }
  /// A matrix with orthonormal columns, or with orthonormal rows where it has fewer rows (Saxe et al.,
  /// arXiv:1312.6120).
  static Init orthogonal() { return {Kind::kOrthogonal}; }
  static Init copied(std::vector<float> values);
  /// +1 with this probability, else -1; 0 where the block has no value to copy (no synapse).
  static Init signs(double probability) { return {Kind::kSigns, probability}; }
  /// N(0, sqrt(2 / (5 D))): input projections and embeddings (Nguyen and Salazar, arXiv:1910.05895).
  static Init small(int64_t dim);
  /// N(0, 2 / (L sqrt(D))): projections into the residual stream (GPT-NeoX, arXiv:2204.06745).
  static Init wang(int64_t dim, int64_t layers);
  /// A stored mask itself.
  static Init entries_of(std::shared_ptr<const Mask> mask);
  /// The same draw for a parameter with this read_share, or with keep_f32.
  Init read_by(double share) const;
  Init kept_in_f32() const;
  /// The same draw for a matrix of gates.
  Init as_gate() const;
  /// Which synapses a circuit has, 0 or 1 each: training leaves them alone.
  static Init synapses(std::vector<float> mask);
  /// The same draw for a parameter that training leaves alone, or keeps at or above `value`.
  Init held_fixed() const;
  Init at_least(double value) const;
};

class ParamSource {
 public:
  virtual ~ParamSource() = default;
  /// The matrix `name` [rows, cols], packed. Throws kInput naming what is missing or misshaped.
  virtual Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                        const Init& init) = 0;
  /// The tensor `name` of `shape`, in f32.
  virtual Tensor tensor(const std::string& name, const Shape& shape, const Init& init) = 0;
  /// The stored mask `name` of a projection; a source without stored tensors goes on with `drawn`.
  virtual std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn);
  /// Packs a form from its masters by calling pack(stream). A source whose masters change later keeps `pack`, calls it
  /// after each change, and returns true. This one packs once, on the calling thread, and returns false.
  using Pack = std::function<void(const Stream& stream)>;
  virtual bool form(const Pack& pack);
  /// Says that elements of `values`, a parameter that the source gave, have no effect where `mask`, of the same shape,
  /// is zero: training leaves them as they are.
  virtual void fix_masked(const Tensor& values, const Tensor& mask);
};

/// An empty weight for a matrix a source was asked for, as its mask lets it be held.
Weight weight_for(const Init& init, int64_t rows, int64_t cols, DType dtype, Weight::Layout layout,
                  Memory& memory = Memory::host());

/// A source seen from one place in the model: names are relative to that place.
class Params {
 public:
  Params(ParamSource& source, std::string prefix) : source_(&source), prefix_(std::move(prefix)) {}
  Params in(const std::string& name) const {
    Params inner(*source_, prefix_ + name + ".");
    inner.wirings_ = wirings_;
    inner.inside_ = inside_ + name + ".";
    return inner;
  }
  /// The same place, where a block begins whose projections `wirings` cut. `wirings` must outlive the result.
  Params wired(Wirings& wirings) const {
    Params block = *this;
    block.wirings_ = &wirings;
    block.inside_.clear();
    return block;
  }

  /// A projection y = W x (+ b): "<name>.weight" [rows, cols] and, if asked, "<name>.bias" [rows].
  Weight projection(const std::string& name, int64_t rows, int64_t cols, const Init& init, bool bias = false,
                    const Init& bias_init = {}) {
    Weight weight = source_->matrix(prefix_ + name + ".weight", rows, cols, Weight::Layout::kPanels,
                                    masked(name, rows, cols, init));
    if (bias) weight.bias = source_->tensor(prefix_ + name + ".bias", Shape{rows}, bias_init);
    return weight;
  }
  /// A block-diagonal projection: "<name>.weight" [blocks, outputs, inputs] of a block. Its wiring sees the blocks
  /// below each other: [blocks * outputs, inputs].
  Tensor block_projection(const std::string& name, const Shape& shape, const Init& init) {
    return source_->tensor(prefix_ + name + ".weight", shape, masked(name, shape[0] * shape[1], shape[2], init));
  }
  /// A look-up table "<name>.weight" [rows, cols].
  Weight table(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) {
    return source_->matrix(prefix_ + name + ".weight", rows, cols, layout, init);
  }
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) {
    return source_->tensor(prefix_ + name, shape, init);
  }
  void fix_masked(const Tensor& values, const Tensor& mask) const { source_->fix_masked(values, mask); }
  /// `form`, packed. A form is a value {masters, storage}: what an op reads, in the order its kernels want, made from
  /// parameters as files hold them. pack(stream) const writes the storage, which copies share, and nothing on meta;
  /// release() drops masters that nobody needs any more.
  template <class Form>
  Form form(Form form) const {
    if (!source_->form([form](const Stream& stream) { form.pack(stream); })) form.release();
    return form;
  }

 private:
  /// `init` with the wiring of this projection, if it has one.
  Init masked(const std::string& name, int64_t rows, int64_t cols, const Init& init) const;

  ParamSource* source_;
  std::string prefix_;
  Wirings* wirings_ = nullptr;  // the block's; null: it has none
  std::string inside_;          // the part of prefix_ within the block
};

}  // namespace carousel
