// SPDX-License-Identifier: Apache-2.0
// Llama 3's rotary parameters to the divisors of "rope_freqs.weight", and back.
#include "carousel/model/gguf/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

constexpr double kTolerance = 2e-4;  // relative; divisors are f32, computed in f32 by other tools

double wavelength(int64_t pair, double theta, int64_t dim) {
  return 2 * M_PI * std::pow(theta, static_cast<double>(2 * pair) / static_cast<double>(dim));
}

Json parameters_of(double factor, double low, double high, int64_t original) {
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", low},
          {"high_freq_factor", high},
          {"original_max_position_embeddings", original}};
}

bool gives(const Json& parameters, double theta, int64_t dim, const std::vector<float>& divisors) {
  const std::vector<float> made = rope_factors(parameters, theta, dim);
  for (size_t j = 0; j < made.size(); ++j) {
    if (!(std::fabs(made[j] - divisors[j]) <= kTolerance * std::fabs(divisors[j]))) return false;
  }
  return true;
}

// Between the kept and the stretched pairs 1/divisor is linear in 1/wavelength: two such pairs give the line, which is
// known up to the unit of length, so the original length is taken as Llama 3's. With fewer, only the usual values fit.
std::optional<Json> solve(const std::vector<float>& divisors, double theta, int64_t dim) {
  constexpr int64_t kOriginal = 8192;
  const double factor = *std::max_element(divisors.begin(), divisors.end());
  std::vector<Json> tries{parameters_of(factor, 1, 4, kOriginal)};
  std::vector<int64_t> between;
  for (size_t j = 0; j < divisors.size(); ++j) {
    if (divisors[j] > 1 + 1e-6 && divisors[j] < factor * (1 - 1e-6)) between.push_back(static_cast<int64_t>(j));
  }
  if (between.size() >= 2) {
    const auto smooth = [&](int64_t j) {
      return (1 / static_cast<double>(divisors[static_cast<size_t>(j)]) - 1 / factor) / (1 - 1 / factor);
    };
    const int64_t a = between.front(), b = between.back();
    const double x = 1 / wavelength(a, theta, dim), y = 1 / wavelength(b, theta, dim);
    const double slope = (smooth(a) - smooth(b)) / (x - y);  // original / (high - low)
    const double width = kOriginal / slope;
    const double low = (slope * x - smooth(a)) * width;
    if (low > 1e-6 && width > 1e-6 && low + width < 1e6)
      tries.push_back(parameters_of(factor, low, low + width, kOriginal));
  }
  for (const Json& parameters : tries) {
    if (gives(parameters, theta, dim, divisors)) return parameters;
  }
  return {};
}

}  // namespace

std::vector<float> rope_divisors(const ModelConfig& config) {
  for (const Sublayer& sublayer : config.sublayers) {
    const Json& options = sublayer.options;
    if (sublayer.block != "attention" || options.value("rope_type", "default") != "llama3") continue;
    const Json parameters{{"factor", options.at("rope_factor")},
                          {"low_freq_factor", options.at("rope_low_freq_factor")},
                          {"high_freq_factor", options.at("rope_high_freq_factor")},
                          {"original_max_position_embeddings", options.at("rope_original_max_position")}};
    const int64_t heads = options.at("num_heads").get<int64_t>();
    return rope_factors(parameters, options.at("rope_theta").get<double>(),
                        options.value("head_dim", config.hidden_size / heads));
  }
  return {};
}

std::vector<float> rope_factors(const Json& parameters, double theta, int64_t dim) {
  const auto number = [&](const char* key) { return parameters.at(key).get<double>(); };
  const double factor = number("factor"), low = number("low_freq_factor"), high = number("high_freq_factor");
  const double original = number("original_max_position_embeddings");
  std::vector<float> out;
  for (int64_t j = 0; j < dim / 2; ++j) {
    const double length = wavelength(j, theta, dim);
    const double smooth = (original / length - low) / (high - low);
    const double divisor = length > original / low    ? factor
                           : length < original / high ? 1.0
                                                      : 1 / ((1 - smooth) / factor + smooth);
    out.push_back(static_cast<float>(divisor));
  }
  return out;
}

Json read_rope_factors(const formats::TensorEntry& tensor, double theta, int64_t dim, Fields& keys,
                       const std::string& prefix) {
  const auto refuse = [&](const std::string& why) {
    fail(ErrorKind::kInput, "{}: \"rope_freqs.weight\" is {} {}, expected {}", keys.where(), tensor.type_name(),
         tensor.shape.str(), why);
  };
  if (tensor.dtype != DType::kF32 || !(tensor.shape == Shape{dim / 2})) {
    refuse(fmt::format("F32 [{}], a divisor for every rotated pair", dim / 2));
  }
  std::vector<float> divisors(static_cast<size_t>(dim / 2));
  tensor.to_f32(tensor.bytes, dim / 2, divisors.data());
  for (const float divisor : divisors) {
    if (!(divisor >= 1 && divisor <= 1e6F)) refuse("divisors from 1 to 1e6");
  }
  if (keys.has((prefix + "factor").c_str())) {
    const auto number = [&](const char* key) { return keys.number((prefix + key).c_str(), 1e-6, 1e6); };
    const Json stated = parameters_of(number("factor"), number("low_freq_factor"), number("high_freq_factor"),
                                      keys.integer((prefix + "original_context_length").c_str(), 1, int64_t{1} << 40));
    if (number("high_freq_factor") <= number("low_freq_factor") || !gives(stated, theta, dim, divisors)) {
      refuse(fmt::format("the divisors that the keys \"{}*\" give", prefix));
    }
    return stated;
  }
  if (std::all_of(divisors.begin(), divisors.end(), [](float divisor) { return divisor == 1; })) {
    return {{"rope_type", "default"}};
  }
  const std::optional<Json> solved = solve(divisors, theta, dim);
  if (!solved) refuse("divisors of Llama 3's rule; others are not supported");
  return *solved;
}

}  // namespace carousel::model
