// SPDX-License-Identifier: Apache-2.0
// The update of a model's parameters from their gradients: clipping and a step over the flat arrays, then packing.
// Of several processes each updates a shard of the arrays, and has the moments of that shard alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/model/trained_params.h"
#include "carousel/train/processes.h"

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

/// The names of the methods in options and checkpoints, in the order of Method.
const std::vector<std::string>& method_names();
inline const std::string& method_name(OptimiserOptions::Method method) {
  return method_names()[static_cast<size_t>(method)];
}

class Optimiser {
 public:
  /// `params` and `processes` outlive this. Moments are zero. Without `processes` this one is alone; else the members
  /// marked so are meetings (Processes).
  Optimiser(model::TrainedParams& params, const Stream& stream, const OptimiserOptions& options,
            Processes& processes = Processes::alone());

  /// Meeting: sums the gradients of all processes, which must be complete (finish_gradients), each shard where it
  /// belongs.
  void join_gradients() { processes_.sum_shards(params_.gradients(), cuts_); }
  /// Meeting: the norm of all gradients.
  double norm() const;
  /// Meeting: one step at this rate with gradients of this norm. They are scaled by min(1, clip / (norm + 1e-6)).
  void step(double rate, double norm);
  /// Counts a step that changes nothing.
  void skip() {
    ++steps_;
    ++skipped_;
  }

  int64_t steps() const { return steps_; }      // skipped ones among them
  int64_t skipped() const { return skipped_; }  // of them
  /// For checkpoints: the moments of this process's shard, and how many steps they have seen. m is the momentum of Muon
  /// and SGD, which have no v.
  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }
  /// Bytes of the moments that are read and written: Muon's matrices have no second one, so the system never gives
  /// large ones of it any memory.
  size_t moment_bytes() const;
  int64_t shard_first() const { return cuts_[static_cast<size_t>(processes_.rank())]; }  // in the flat arrays
  int64_t shard_end() const { return cuts_[static_cast<size_t>(processes_.rank()) + 1]; }
  /// Meeting: all moments, flat as the gradients are, at rank 0.
  Tensor collect(const Tensor& moments) const { return processes_.collect_shards(moments, cuts_); }
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
    int64_t first, count;  // of the shard's elements
    bool decays;
    Kind kind;
    int64_t cols;  // of the matrix
  };
  Kind kind_of(const model::TrainedParam& param) const;
  void find_ranges();
  void cut_into_shards();
  void step_range(const Range& range, double rate, float grad_scale);

  model::TrainedParams& params_;
  const Stream& stream_;
  OptimiserOptions options_;
  Processes& processes_;
  Cuts cuts_;     // a matrix of Muon's is whole in a shard
  Arena arena_;   // of Muon's products
  Tensor m_, v_;  // [elements of the shard] f32
  std::vector<Range> ranges_;
  int64_t steps_ = 0, skipped_ = 0;
};

}  // namespace carousel::train
