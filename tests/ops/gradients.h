// SPDX-License-Identifier: Apache-2.0
// What a test of a backward runs on: a machine with a tape, and central differences in f64 to compare with.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "carousel/ops/tape.h"
#include "tests/ops/machine.h"
#include "tests/slow.h"

namespace carousel {

/// A machine whose ops record. Inputs are watched activations, parameters trained masters; backward() fills gradients.
struct Taped : Machine {
  explicit Taped(Isa isa = cpu::best_isa(), int threads = 3) : Machine(isa, threads) { ctx.tape = &tape; }

  /// A watched activation with these contents.
  Tensor input(const Tensor& values) {
    const Tensor x = arena.empty(values.shape());
    if (values.count() > 0) std::memcpy(x.raw(), values.raw(), values.size_bytes());
    tape.watch(x);
    return x;
  }
  /// Trains `master`. The result is where its gradient is added; zero at first.
  std::shared_ptr<std::vector<float>> parameter(const Tensor& master) {
    auto gradient = std::make_shared<std::vector<float>>(static_cast<size_t>(master.count()), 0.0f);
    gradients.push_back(gradient);
    trained.add(master, gradient->data());
    return gradient;
  }
  /// Runs the tape backwards from the gradients of these outputs. d_states: see Grads. numerics: those of the forward.
  void backward(const std::vector<std::pair<Tensor, Tensor>>& outputs, const StateBatch* d_states = nullptr,
                const Numerics& numerics = Numerics::native()) {
    Ctx plain{stream, arena, numerics};
    grads = std::make_unique<Grads>(tape, d_states);
    for (const auto& [output, d] : outputs) grads->give(plain, output, d);
    tape.backward(plain, *grads);
  }
  /// The gradient of a watched activation after backward(); undefined where there is none.
  Tensor gradient(const Tensor& x) {
    Ctx plain{stream, arena};
    return grads->take(plain, x);
  }

  Trained trained;
  Tape tape{trained};
  std::unique_ptr<Grads> grads;
  std::vector<std::shared_ptr<std::vector<float>>> gradients;
};

inline std::vector<double> to_f64(const Tensor& tensor) {
  return std::vector<double>(tensor.f32(), tensor.f32() + tensor.count());
}

/// Relative L2 distance between a gradient and the central differences of loss(), at elements of `at` spread evenly,
/// at most `samples` of them. `at` holds what loss() reads, and is as it was afterwards. The step suits losses with
/// third derivatives of order 1.
inline double gradient_error(const std::function<double()>& loss, std::vector<double>& at, const float* gradient,
                             size_t samples = kSanitized || kEmulated ? 60 : 400, double step = 1e-5) {
  const size_t stride = std::max<size_t>(1, at.size() / samples);
  std::vector<float> got;
  std::vector<double> slopes;
  for (size_t i = 0; i < at.size(); i += stride) {
    const double centre = at[i];
    at[i] = centre + step;
    const double above = loss();
    at[i] = centre - step;
    const double below = loss();
    at[i] = centre;
    got.push_back(gradient[i]);
    slopes.push_back((above - below) / (2 * step));
  }
  return relative_error(got.data(), slopes);
}

/// sum of weights * outputs: the loss whose gradient with respect to the outputs is `weights`.
inline double weighted_sum(const Tensor& weights, const std::vector<double>& outputs) {
  double sum = 0;
  for (int64_t i = 0; i < weights.count(); ++i) sum += double{weights.f32()[i]} * outputs[static_cast<size_t>(i)];
  return sum;
}

}  // namespace carousel
