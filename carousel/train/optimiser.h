// SPDX-License-Identifier: Apache-2.0
// The update of a model's parameters from their gradients: clipping and a step over the flat arrays, then packing.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/model/trained_params.h"

namespace carousel::train {

struct OptimiserOptions {
  float beta1 = 0.9f, beta2 = 0.95f;
  float eps = 1e-8f;
  float decay = 0.1f;  // of the parameters that decay
  float clip = 1.0f;   // the most that the norm of all gradients may be; 0: no bound
  enum class Method {
    kAdamW,
    kMuon,  // matrices inside blocks; embeddings, head, gates, masked matrices and all that is no matrix stay AdamW
    kSgd,   // with momentum beta1
  };
  Method method = Method::kAdamW;
  float muon_rate = 2;      // the rate of Muon's matrices over that of the others
  bool muon_gates = false;  // Muon takes matrices of gates too
  enum class Decays {
    kMatrices,  // parameters with two or more dimensions
    kPaper,     // the groups of the xLSTM paper of 2024
  };
  Decays decays = Decays::kMatrices;
};

class Optimiser {
 public:
  /// `params` outlives this. Moments are zero.
  Optimiser(model::TrainedParams& params, const Stream& stream, const OptimiserOptions& options);

  /// The norm of all gradients, which must be complete (finish_gradients).
  double norm() const;
  /// One step at this rate with gradients of this norm. They are scaled by min(1, clip / (norm + 1e-6)).
  void step(double rate, double norm);
  /// Counts a step that changes nothing.
  void skip() {
    ++steps_;
    ++skipped_;
  }

  int64_t steps() const { return steps_; }      // skipped ones among them
  int64_t skipped() const { return skipped_; }  // of them
  /// For checkpoints: the moments, flat as the gradients are, and how many steps they have seen. m is the momentum of
  /// Muon and SGD.
  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  /// Whether the optimiser reads v of this parameter.
  bool has_v(const model::TrainedParam& param) const { return kind_of(param) == Kind::kAdamW; }
  void set_steps(int64_t steps, int64_t skipped) {
    steps_ = steps;
    skipped_ = skipped;
  }

 private:
  enum class Kind { kAdamW, kMuon, kSgd };
  /// Neighbouring parameters that are treated alike, or one matrix of Muon's.
  struct Range {
    int64_t first, count;
    bool decays;
    Kind kind;
    int64_t cols;  // of the matrix
  };
  Kind kind_of(const model::TrainedParam& param) const;
  void step_range(const Range& range, double rate, float grad_scale);

  model::TrainedParams& params_;
  const Stream& stream_;
  OptimiserOptions options_;
  Arena arena_;  // of Muon's products
  Tensor m_, v_;
  std::vector<Range> ranges_;
  int64_t steps_ = 0, skipped_ = 0;
};

}  // namespace carousel::train
