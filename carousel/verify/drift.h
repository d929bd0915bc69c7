// SPDX-License-Identifier: Apache-2.0
// How far two ways of running one language model drift apart: after every sublayer, in the states, in the logits and in
// the tokens that greedy decoding takes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "carousel/model/load.h"
#include "carousel/model/runner.h"

namespace carousel::verify {

/// The values of one quantity in side a and side b, compared over all that was seen.
struct Drift {
  double difference = 0;  // sum of (b - a)^2
  double size = 0;        // sum of a^2
  double largest = 0;     // the largest |b - a|

  void add(const float* a, const float* b, int64_t count);
  /// ||b - a|| / ||a||.
  double relative() const;
};

/// Keeps the residual stream of one forward, after every sublayer.
class Residuals : public Observer {
 public:
  void residual(size_t count, const Tensor& x) override;
  const std::vector<std::vector<float>>& rows() const { return rows_; }  // [sublayers + 1][T * D]

 private:
  std::vector<std::vector<float>> rows_;
};

/// One of the two ways: a model as it is run so, and one sequence.
struct Side {
  /// Throws what model::load throws.
  Side(const std::string& path, const Numerics& numerics, const Stream& stream);
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;
  /// Hidden rows [T, D] of the sequence's next tokens.
  Tensor forward(std::span<const int32_t> tokens);

  model::Model model;
  Residuals residuals;
  model::Runner runner;
  State state;
  std::vector<float> last;  // [V] logits after the last token
};

struct StateDrift {
  std::string name;  // the tensor's name in the state's layout
  Drift drift;
};

/// What measure_drift found.
struct DriftReport {
  std::vector<Drift> sublayers;  // after 0, 1, ... sublayers
  std::vector<StateDrift> states;
  Drift logits;
  int64_t tokens = 0;        // positions
  int64_t agree = 0;         // positions whose likeliest next token is the same
  int64_t greedy = 0;        // tokens decoded after the last position
  int64_t greedy_agree = 0;  // how many of these, from the first on, are the same
};

/// Runs `tokens`, then decodes `greedy` more. Both sides hold the same model file and begin without a sequence.
/// `stop` is asked between slabs and tokens: before the last slab it throws Error(kCancelled), afterwards it ends the
/// decoding. `progress` is told the tokens done, from 0 to all.
DriftReport measure_drift(Side& a, Side& b, std::span<const int32_t> tokens, int64_t greedy,
                          const std::function<bool()>& stop,
                          const std::function<void(int64_t done, int64_t total)>& progress);

}  // namespace carousel::verify
