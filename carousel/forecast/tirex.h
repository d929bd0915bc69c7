// SPDX-License-Identifier: Apache-2.0
// TiRex (arXiv:2505.23719): a zero-shot forecaster. The last values of a series, scaled and cut into patches, are the
// tokens of a stack of sLSTM and feed-forward sublayers; the output of a token is the quantiles of the patch after it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "carousel/model/forecaster.h"
#include "carousel/model/pass.h"

namespace carousel::forecast {

/// Location and scale of the values that are not missing: their mean and population standard deviation, in f32 as in
/// the reference. Without any value: 0 and 1. A scale of exactly 0 becomes |location| + 1e-5.
struct Scale {
  float location = 0;
  float scale = 1;
};
Scale find_scale(std::span<const float> values);

/// Writes the tokens of values, a whole number of patches, into zeros: of each patch the scaled values, then flags that
/// are 1 where there is a value.
void fill_tokens(std::span<const float> values, const Scale& scale, int64_t patch, float* tokens);

struct ForecastOptions {
  int64_t horizon = 0;
  /// Patches per pass. Above 1 a long horizon takes fewer passes and differs a little from one patch at a time.
  int64_t accelerate = 1;
  /// Start from the remembered states of leading padding tokens instead of running them; changes no bit.
  bool reuse_padding = true;
};

/// One series' forecast.
struct Forecast {
  std::vector<float> values;  // [horizon, Q], level after level; neither sorted nor clipped
};

class Tirex {
 public:
  /// The model must outlive this. Not for use by two threads at once.
  Tirex(const model::Forecaster& model, const Stream& stream)
      : model_(model), stream_(stream), padding_{{0, State()}} {}

  /// Forecasts of several series at once; NaN marks a missing value. A series' result does not depend on the others.
  /// Values in f32, at most the last context() are used; longer horizons than that see no data towards their end.
  /// Throws kInput for an infinite value or a horizon below 1.
  std::vector<Forecast> forecast(const std::vector<std::vector<float>>& series, const ForecastOptions& options);

  const std::vector<double>& levels() const { return model_.patches().quantiles; }
  size_t median() const;  // index of level 0.5
  int64_t context() const { return model_.patches().context; }
  int64_t patch() const { return model_.patches().patch; }
  const Arena& arena() const { return pass_.arena(); }

 private:
  std::vector<float> last_values(const std::vector<float>& series) const;
  void pass(std::vector<std::vector<float>>& windows, const ForecastOptions& options, int64_t patches,
            std::vector<Forecast>& out);
  const State& padding(int64_t tokens);
  Tensor run(const Tensor& tokens, std::span<const int64_t> lengths, std::span<State> states);

  const model::Forecaster& model_;
  Stream stream_;
  model::Pass pass_{stream_, Numerics::native()};
  std::map<int64_t, State> padding_;  // the state after k leading tokens without a value, by k
};

}  // namespace carousel::forecast
