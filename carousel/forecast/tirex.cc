// SPDX-License-Identifier: Apache-2.0
// TiRex's scaling, tokens and rollout. States after leading padding are computed once and kept.
#include "carousel/forecast/tirex.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "carousel/core/error.h"

namespace carousel::forecast {
namespace {

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();
constexpr float kFlatScale = 1e-5f;
constexpr int64_t kPaddingStep = 8;

// The number of leading tokens without a value.
int64_t leading_padding(const std::vector<float>& window, int64_t patch) {
  const auto first = std::find_if(window.begin(), window.end(), [](float value) { return !std::isnan(value); });
  return (first - window.begin()) / patch;
}

}  // namespace

// Sums are f64, so that their order does not matter; deviations are from the f32 mean, as in the reference.
Scale find_scale(std::span<const float> values) {
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (const float value : values) {
    if (std::isnan(value)) continue;
    sum += static_cast<double>(value);
    ++count;
  }
  if (count == 0) return {};
  const auto mean = static_cast<float>(sum / static_cast<double>(count));
  for (const float value : values) {
    if (!std::isnan(value)) squares += std::pow(static_cast<double>(value) - static_cast<double>(mean), 2);
  }
  const auto deviation = static_cast<float>(std::sqrt(squares / static_cast<double>(count)));
  return {mean, deviation == 0 ? std::abs(mean) + kFlatScale : deviation};
}

void fill_tokens(std::span<const float> values, const Scale& scale, int64_t patch, float* tokens) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) continue;
    const auto at = static_cast<int64_t>(i);
    float* const token = tokens + at / patch * 2 * patch;
    token[at % patch] = (values[i] - scale.location) / scale.scale;
    token[patch + at % patch] = 1;
  }
}

size_t Tirex::median() const {
  return static_cast<size_t>(std::find(levels().begin(), levels().end(), 0.5) - levels().begin());
}

// The last context() values; where there are fewer, missing values stand before them.
std::vector<float> Tirex::last_values(const std::vector<float>& series) const {
  const auto context = static_cast<size_t>(this->context());
  const size_t kept = std::min(series.size(), context);
  std::vector<float> window(context, kMissing);
  std::copy(series.end() - static_cast<std::ptrdiff_t>(kept), series.end(),
            window.end() - static_cast<std::ptrdiff_t>(kept));
  return window;
}

std::vector<Forecast> Tirex::forecast(const std::vector<std::vector<float>>& series, const ForecastOptions& options) {
  if (options.horizon < 1 || options.accelerate < 1) {
    fail(ErrorKind::kInput, "forecast: horizon {}, patches per pass {}, expected at least 1 each", options.horizon,
         options.accelerate);
  }
  std::vector<std::vector<float>> windows;
  for (size_t s = 0; s < series.size(); ++s) {
    if (std::any_of(series[s].begin(), series[s].end(), [](float value) { return std::isinf(value); })) {
      fail(ErrorKind::kInput, "forecast: series {} holds an infinite value", s);
    }
    windows.push_back(last_values(series[s]));
  }
  std::vector<Forecast> out(series.size());
  int64_t left = (options.horizon + patch() - 1) / patch();
  while (left > 0 && !series.empty()) {
    const int64_t patches = std::min(left, options.accelerate);
    pass(windows, options, patches, out);
    left -= patches;
  }
  for (Forecast& one : out) one.values.resize(static_cast<size_t>(options.horizon) * levels().size());
  return out;
}

// The state after `tokens` tokens without a value. It is always the same, so it is computed once, from the nearest one
// that is kept. States on the way at multiples of kPaddingStep are kept too, since each round of a long horizon needs
// the state of one token less.
const State& Tirex::padding(int64_t tokens) {
  auto nearest = std::prev(padding_.upper_bound(tokens));
  while (nearest->first < tokens) {
    const int64_t next = std::min(tokens, (nearest->first / kPaddingStep + 1) * kPaddingStep);
    const int64_t lengths[] = {next - nearest->first};
    State state = nearest->second;
    run(Tensor(Shape{lengths[0], 2 * patch()}, DType::kF32), lengths, {&state, 1});
    nearest = padding_.emplace(next, std::move(state)).first;
  }
  return nearest->second;
}

// tokens [N, 2P] on the host -> quantiles of every token [N, Q * P], scaled; the states move on.
Tensor Tirex::run(const Tensor& tokens, std::span<const int64_t> lengths, std::span<State> states) {
  std::vector<State*> pointers;
  for (State& state : states) pointers.push_back(&state);
  const Tensor there = tokens.to(*stream_.memory);
  return pass_.run(
      model_.state_layout(), pointers, lengths, {},
      [&](Ctx& ctx, const Seqs& seqs, const StateBatch* bound) { return model_.forward(ctx, there, seqs, bound); });
}

// Forecasts `patches` more patches of every window and moves the windows over them. Forecast values are not known, so
// missing values are appended to the windows.
void Tirex::pass(std::vector<std::vector<float>>& windows, const ForecastOptions& options, int64_t patches,
                 std::vector<Forecast>& out) {
  const int64_t patch = this->patch(), tokens = model_.patches().tokens(), width = 2 * patch;
  const auto Q = static_cast<int64_t>(levels().size());
  std::vector<int64_t> lengths;
  std::vector<State> states;
  std::vector<Scale> scales;
  int64_t rows = 0;
  for (const std::vector<float>& window : windows) {
    // The last token is always run: its output is the forecast.
    const int64_t skipped = options.reuse_padding ? std::min(leading_padding(window, patch), tokens - 1) : 0;
    states.push_back(padding(skipped));
    lengths.push_back(tokens - skipped + patches - 1);
    scales.push_back(find_scale(window));
    rows += lengths.back();
  }
  Tensor x(Shape{rows, width}, DType::kF32);  // values then masks; the patches - 1 last tokens of a series stay 0
  int64_t row = 0;
  for (size_t s = 0; s < windows.size(); ++s) {
    const int64_t run_tokens = lengths[s] - (patches - 1);
    const auto skipped = static_cast<size_t>((tokens - run_tokens) * patch);
    fill_tokens(std::span(windows[s]).subspan(skipped), scales[s], patch, x.f32() + row * width);
    row += lengths[s];
  }
  const Tensor y = run(x, lengths, states).to_host();  // [rows, Q * P]
  row = 0;
  for (size_t s = 0; s < windows.size(); ++s) {
    row += lengths[s];
    for (int64_t k = row - patches; k < row; ++k) {
      for (int64_t t = 0; t < patch; ++t) {
        for (int64_t q = 0; q < Q; ++q) {
          const float scaled = y.f32()[k * Q * patch + q * patch + t];
          out[s].values.push_back(scaled * scales[s].scale + scales[s].location);
        }
      }
    }
    std::vector<float>& window = windows[s];
    const auto moved = static_cast<std::ptrdiff_t>(std::min(patches * patch, context()));
    std::copy(window.begin() + moved, window.end(), window.begin());
    std::fill(window.end() - moved, window.end(), kMissing);
  }
}

}  // namespace carousel::forecast
