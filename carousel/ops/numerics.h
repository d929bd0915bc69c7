// SPDX-License-Identifier: Apache-2.0
// How numbers are handled where implementations of one model differ: which results are rounded to a narrower type,
// where an epsilon stands, how an equation is solved. Native is f32 throughout. Profiles are read by model/profile.h.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/dtype.h"
#include "carousel/ops/params.h"

namespace carousel {

/// A dtype here is kF32 or kBF16: values are stored in f32, rounded to values of that dtype.
struct Numerics {
  /// How RMSNorm and LayerNorm are computed.
  struct Norm {
    DType reduction = DType::kF32;    // moments and normalised values are rounded to this
    bool cast_before_weight = false;  // normalised values are rounded to the activations' dtype, then weighted
    bool eps_outside_root = false;    // 1 / (sqrt(v) + eps), not 1 / sqrt(v + eps)
    bool unbiased_variance = false;   // LayerNorm divides by D - 1
    bool operator==(const Norm&) const = default;
  };
  /// How the mLSTM cell goes through a sequence.
  enum class Pieces : uint8_t {
    kGrid,   // chunks on a grid from position 0, single rows as a step; any cut gives the same bits
    kCall,   // whole chunks from the first row of the call, then step by step, as transformers does
    kSteps,  // step by step
  };
  struct Mlstm {
    Pieces pieces = Pieces::kGrid;
    bool eps_in_max = false;  // max(|q.n| + eps, e^-m), not max(|q.n|, e^-m) + eps
    bool operator==(const Mlstm&) const = default;
  };
  struct Attention {
    DType rotary = DType::kF32;  // cosines, sines and each product with them
    DType scores = DType::kF32;  // q.k, its scaling and the probabilities, which then are normalised first
    bool operator==(const Attention&) const = default;
  };
  enum class Solver : uint8_t { kSemiImplicit, kEuler, kRungeKutta };
  struct Range {
    double low = -std::numeric_limits<double>::infinity();
    double high = std::numeric_limits<double>::infinity();
    bool operator==(const Range&) const = default;
  };
  /// How liquid time-constant cells are solved; an unset field leaves the model's own choice.
  struct Ltc {
    Solver solver = Solver::kSemiImplicit;
    std::optional<int64_t> unfolds;
    std::optional<double> step;  // time of one solver step, whatever time elapsed; unset: elapsed time / unfolds
    std::optional<double> epsilon;
    std::optional<bool> implicit;  // parameters are constrained by a softplus
    Range w, cm, gleak;            // bounds of the constrained parameters
    bool operator==(const Ltc&) const = default;
  };
  /// How a kind of parameter is drawn by `init`, in place of the block's own way.
  struct Draw {
    std::string kind;  // "ltc.gleak": see model/profile.h
    Init init;
    double first = 0, second = 0;  // the numbers of the profile: an interval's ends, say
    bool operator==(const Draw& other) const {
      return kind == other.kind && init.kind == other.init.kind && first == other.first && second == other.second;
    }
  };

  std::string name = "native";
  std::string description;
  DType parameters = DType::kF32;      // kBF16: rounded as they are read; kF32: kept as the file has them
  DType activations = DType::kF32;     // results of look-ups, products, sums, norms, convolutions and cells
  DType states = DType::kF32;          // fixed-size states, after every call
  DType gates = DType::kF32;           // results of sigmoid, SiLU and log-sigmoid gates
  DType gate_soft_cap = DType::kF32;   // each operation of the soft cap on the mLSTM's gates
  DType logit_soft_cap = DType::kF32;  // each operation of the soft cap on logits
  bool gelu_tanh = false;              // GELU by its tanh approximation
  Norm norm;
  Mlstm mlstm;
  Attention attention;
  Ltc ltc;
  std::vector<Draw> init;

  bool operator==(const Numerics&) const = default;
  static const Numerics& native();
};

}  // namespace carousel
