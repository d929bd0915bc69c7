// SPDX-License-Identifier: Apache-2.0
// Computes each expected tensor of a forecaster's case and compares it.
#include "carousel/verify/forecast_case.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/forecast/tirex.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/families/family.h"
#include "carousel/model/load.h"
#include "carousel/ops/kernel.h"
#include "carousel/verify/drift.h"
#include "carousel/verify/training_case.h"

namespace carousel::verify {
namespace {

// All is computed in float32; differences below 6e-7 are seen.
constexpr double kForecastTolerance = 2e-6;
constexpr int64_t kMaxAccelerate = 1024;
constexpr const char* kContext = "ctx.";
constexpr const char* kQuantiles = "quantiles.";
constexpr const char* kMean = "mean.";
constexpr const char* kRollout = ".rollout";
constexpr const char* kLoss = "loss";
constexpr const char* kTrain = "train.";

using Series = std::vector<std::vector<float>>;

// Adds a comparison of `got` with `want`; the status follows from the worst one.
void compare(Comparison& out, const std::vector<float>& got, const Tensor& want, const Attempt& attempt) {
  Drift drift;
  drift.add(want.f32(), got.data(), static_cast<int64_t>(got.size()));
  if (!(drift.largest <= out.largest)) out.largest = drift.largest;
  // Not drift.relative(), which rounds once more: reports would change in their last digit.
  const double relative = drift.difference == 0 ? 0 : std::sqrt(drift.difference / drift.size);
  if (!(relative <= out.relative)) out.relative = relative;
  const bool agrees = relative <= attempt.tolerance;
  if (out.status != Comparison::Status::kFail)
    out.status = agrees ? Comparison::Status::kOk : Comparison::Status::kFail;
  if (!agrees && out.note.empty()) out.note = attempt.way;
}

class ForecastCase {
 public:
  ForecastCase(const std::string& folder, const Setup& setup)
      : folder_(folder),
        setup_(setup),
        tolerance_(setup.rounds ? kRoundedTolerance : kForecastTolerance),
        where_(folder + "/expected.safetensors"),
        expected_(formats::SafetensorsFile::open(where_)),
        loaded_(model::load(folder, setup.stream, model::ModelKind::kForecaster, setup.numerics, setup.weights)),
        model_(*loaded_.forecaster, setup.stream) {}

  std::vector<Comparison> compare_all() {
    std::vector<Comparison> out;
    for (const formats::TensorEntry& entry : expected_.entries()) {
      const bool of_training = entry.name == kLoss || entry.name.starts_with(kTrain) || is_training(entry.name);
      if (entry.name.starts_with(kContext) || of_training) continue;
      Comparison comparison;
      comparison.name = entry.name;
      if (entry.name.starts_with(kQuantiles)) {
        compare_one(entry, entry.name.substr(std::strlen(kQuantiles)), false, comparison);
      } else if (entry.name.starts_with(kMean)) {
        compare_one(entry, entry.name.substr(std::strlen(kMean)), true, comparison);
      } else {
        comparison.note = "not a forecast";
      }
      out.push_back(comparison);
    }
    if (expected_.find(kLoss) != nullptr) {
      for (const Comparison& comparison : compare_training(folder_, expected_, setup_)) out.push_back(comparison);
    }
    return out;
  }

 private:
  // Tensor `name` [B, T] as series.
  Series read_context(const std::string& name) const {
    const formats::TensorEntry* entry = expected_.find(kContext + name);
    if (entry == nullptr || entry->dtype != DType::kF32 || entry->shape.rank() != 2) {
      fail(ErrorKind::kInput, "{}: \"{}{}\" is missing or not F32 [B, T]", where_, kContext, name);
    }
    const Tensor values = entry->load();
    Series series;
    for (int64_t b = 0; b < values.dim(0); ++b) {
      const float* row = values.f32() + b * values.dim(1);
      series.emplace_back(row, row + values.dim(1));
    }
    return series;
  }

  // The number at the end of a rollout tensor's name.
  int64_t patches_at_once(const std::string& digits) const {
    int64_t value = 0;
    const char* const end = digits.data() + digits.size();
    const auto [stopped, error] = std::from_chars(digits.data(), end, value);
    if (error != std::errc() || stopped != end || value < 1 || value > kMaxAccelerate) {
      fail(ErrorKind::kInput, "{}: got \"{}\", expected an integer from 1 to {}", where_, digits, kMaxAccelerate);
    }
    return value;
  }

  // The forecast [B, L, Q], or its median alone [B, L].
  std::vector<float> forecast_of(const Series& series, const forecast::ForecastOptions& options, bool median) {
    std::vector<float> out;
    const size_t Q = model_.levels().size();
    for (const forecast::Forecast& one : model_.forecast(series, options)) {
      for (size_t i = 0; i < one.values.size(); ++i) {
        if (!median || i % Q == model_.median()) out.push_back(one.values[i]);
      }
    }
    return out;
  }

  void compare_one(const formats::TensorEntry& entry, std::string name, bool median, Comparison& out) {
    forecast::ForecastOptions options;
    if (const size_t rollout = name.find(kRollout); rollout != std::string::npos) {
      options.accelerate = patches_at_once(name.substr(rollout + std::strlen(kRollout)));
      name.resize(rollout);
    }
    const Series series = read_context(name);
    const auto batch = static_cast<int64_t>(series.size());
    const auto Q = static_cast<int64_t>(model_.levels().size());
    const bool fits = entry.dtype == DType::kF32 && entry.shape.rank() == (median ? 2 : 3) && entry.shape[0] == batch &&
                      entry.shape[1] > 0 && (median || entry.shape[2] == Q);
    if (!fits) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected F32 [{}, L{}]", where_, entry.name,
           dtype_name(entry.dtype), entry.shape.str(), batch, median ? "" : fmt::format(", {}", Q));
    }
    options.horizon = entry.shape[1];
    const Tensor want = entry.load();
    const std::vector<float> together = forecast_of(series, options, median);
    compare(out, together, want, {"together", tolerance_});
    options.reuse_padding = false;
    std::vector<float> alone;
    for (const std::vector<float>& one : series) {
      const std::vector<float> values = forecast_of({one}, options, median);
      alone.insert(alone.end(), values.begin(), values.end());
    }
    compare(out, alone, want, {"alone", tolerance_});
    // On a GPU the number of rows chooses the kernel of a product.
    const bool same = std::memcmp(alone.data(), together.data(), alone.size() * sizeof(float)) == 0;
    if (kernel_traits(*setup_.stream.memory).rows_keep_bits && !same) {
      out.status = Comparison::Status::kFail;
      out.note = "remembered padding in a batch and all tokens alone differ in bits";
    }
  }

  std::string folder_;
  const Setup& setup_;
  double tolerance_;
  std::string where_;
  formats::SafetensorsFile expected_;
  model::Model loaded_;
  forecast::Tirex model_;
};

}  // namespace

bool is_forecast_case(const std::string& folder) {
  const Json config = model::read_config(model::resolve(folder).config);
  const Json type = config.is_object() ? config.value("model_type", Json()) : Json();
  const model::Family* family = type.is_string() ? model::known_family(type.get<std::string>()) : nullptr;
  return family != nullptr && family->kind == model::ModelKind::kForecaster;
}

std::vector<Comparison> compare_forecast_case(const std::string& folder, const Setup& setup) {
  return ForecastCase(folder, setup).compare_all();
}

}  // namespace carousel::verify
