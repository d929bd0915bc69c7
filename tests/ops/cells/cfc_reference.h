// SPDX-License-Identifier: Apache-2.0
// CfC cells in f64, slow and obvious, beside the packed cells that the op takes.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "carousel/ops/cells/cfc.h"
#include "tests/ops/machine.h"

namespace carousel::cfc_reference {

using ops::CellMap;
using ops::CfcActivation;
using ops::CfcMode;

using Vector = std::vector<double>;

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

inline double activate(CfcActivation kind, double x) {
  switch (kind) {
    case CfcActivation::kLecunTanh:
      return 1.7159 * std::tanh(0.666 * x);
    case CfcActivation::kTanh:
      return std::tanh(x);
    case CfcActivation::kRelu:
      return std::max(x, 0.0);
    case CfcActivation::kSilu:
      return x * sigmoid(x);
    case CfcActivation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case CfcActivation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

/// Plain weights [rows, cols] beside the packed form the op takes.
struct Map {
  /// With is_masked half of the weights of the first two parts are cut.
  Map(Memory& memory, int64_t inputs, int64_t units, int64_t parts, uint64_t seed, bool is_masked = false)
      : units_count(units), packed(inputs, units, parts, memory), bias(random_tensor({parts * units}, seed, 0.3f)) {
    const float scale = 1 / std::sqrt(static_cast<float>(inputs));
    weight = random_tensor({parts * units, inputs}, seed + 1, scale);
    if (is_masked) mask = Tensor({parts * units, inputs}, DType::kF32);
    for (int64_t i = 0; is_masked && i < mask.count(); ++i) mask.f32()[i] = i * 7 % 5 < 3 ? 1.0f : 0.0f;
    for (int64_t p = 0; p < parts; ++p) {
      packed.add(p, 0, weight.to(memory), p * units, p < 2 && is_masked ? mask.to(memory) : Tensor());
      packed.add_bias(p, bias.to(memory), p * units);
    }
    packed.pack(Stream());
    weights.assign(weight.f32(), weight.f32() + weight.count());
    biases.assign(bias.f32(), bias.f32() + bias.count());
  }
  bool masked(int64_t i) const { return mask.defined() && i / weight.dim(1) < 2 * units_count && mask.f32()[i] == 0; }
  Vector operator()(const Vector& z) const {
    Vector out;
    for (int64_t r = 0; r < weight.dim(0); ++r) {
      double sum = biases[static_cast<size_t>(r)];
      for (size_t k = 0; k < z.size(); ++k) {
        const int64_t i = r * weight.dim(1) + static_cast<int64_t>(k);
        if (!masked(i)) sum += weights[static_cast<size_t>(i)] * z[k];
      }
      out.push_back(sum);
    }
    return out;
  }
  int64_t units_count;
  CellMap packed;
  Tensor weight, bias, mask;
  Vector weights, biases;  // what the reference computes with: those values in f64
};

struct Layer {
  std::vector<Map> backbone;
  Map heads;
  Tensor w_tau, a;
  Vector w_taus, as;  // those values in f64
};

struct Reference {
  ops::CfcCell cell;
  std::vector<Layer> layers;
  std::vector<Map> memory;  // one, or none

  void step(const Vector& x, double dt, Vector& h, Vector& c) const {
    const auto units = static_cast<size_t>(cell.units());
    if (!memory.empty()) {
      Vector z = x;
      z.insert(z.end(), h.begin(), h.end());
      const Vector g = memory[0](z);
      for (size_t j = 0; j < units; ++j) {
        c[j] = c[j] * sigmoid(g[2 * units + j] + 1) + std::tanh(g[j]) * sigmoid(g[units + j]);
        h[j] = std::tanh(c[j]) * sigmoid(g[3 * units + j]);
      }
    }
    Vector input = x;
    size_t first = 0;
    for (const Layer& layer : layers) {
      const auto count = static_cast<size_t>(layer.heads.units_count);
      Vector z = input;
      z.insert(z.end(), h.begin() + static_cast<int64_t>(first), h.begin() + static_cast<int64_t>(first + count));
      for (const Map& map : layer.backbone) {
        z = map(z);
        for (double& v : z) v = activate(cell.activation, v);
      }
      const Vector sums = layer.heads(z);
      input.clear();
      for (size_t j = 0; j < count; ++j) {
        double value = 0;
        if (cell.mode == CfcMode::kPure) {
          const double a = layer.as[j], w_tau = layer.w_taus[j];
          value = a - a * std::exp(-dt * (std::abs(w_tau) + std::abs(sums[j]))) * sums[j];
        } else {
          const double s = sigmoid(sums[2 * count + j] * dt + sums[3 * count + j]);
          value = std::tanh(sums[j]) * (cell.mode == CfcMode::kNoGate ? 1 : 1 - s) + s * std::tanh(sums[count + j]);
        }
        h[first + j] = value;
        input.push_back(value);
      }
      first += count;
    }
  }
};

struct Shape2 {
  CfcMode mode = CfcMode::kDefault;
  CfcActivation activation = CfcActivation::kLecunTanh;
  std::vector<int64_t> units = {20};
  int64_t depth = 1;
  bool memory = false;
};

/// The packed cell lies in `memory`.
inline Reference make_reference(int64_t inputs, const Shape2& shape, Memory& memory = Memory::host()) {
  Reference out;
  out.cell.inputs = inputs;
  out.cell.mode = shape.mode;
  out.cell.activation = shape.activation;
  uint64_t seed = 100;
  int64_t width = inputs;
  for (const int64_t units : shape.units) {
    int64_t fan_in = width + units;
    std::vector<Map> backbone;
    for (int64_t l = 0; l < shape.depth; ++l) {
      backbone.emplace_back(memory, fan_in, 33, 1, seed += 10);
      fan_in = 33;
    }
    const int64_t parts = shape.mode == CfcMode::kPure ? 1 : 4;
    const bool is_masked = shape.units.size() > 1;
    out.layers.push_back({backbone, Map(memory, fan_in, units, parts, seed += 10, is_masked), {}, {}, {}, {}});
    Layer& layer = out.layers.back();
    if (shape.mode == CfcMode::kPure) {
      layer.w_tau = random_tensor({1, units}, seed += 10);
      layer.a = random_tensor({1, units}, seed += 10);
      layer.w_taus.assign(layer.w_tau.f32(), layer.w_tau.f32() + units);
      layer.as.assign(layer.a.f32(), layer.a.f32() + units);
    }
    ops::CfcLayer packed{units, {}, layer.heads.packed, {}, {}};
    if (shape.mode == CfcMode::kPure) {
      packed.w_tau = formed(ops::CellRow(layer.w_tau.to(memory)));
      packed.a = formed(ops::CellRow(layer.a.to(memory)));
    }
    for (const Map& map : layer.backbone) packed.backbone.push_back(map.packed);
    out.cell.layers.push_back(packed);
    width = units;
  }
  if (shape.memory) {
    out.memory.emplace_back(memory, inputs + out.cell.units(), out.cell.units(), 4, seed += 10);
    out.cell.memory = out.memory[0].packed;
  }
  return out;
}

}  // namespace carousel::cfc_reference
