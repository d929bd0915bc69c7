// SPDX-License-Identifier: Apache-2.0
// The measurements of `carousel bench` on a model, and the rate of each at the machine's bounds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "carousel/model/cost.h"
#include "carousel/model/lm.h"

namespace carousel::bench {

struct BenchTest {
  bool decode = false;  // token by token; otherwise a prompt and the logits after it
  int64_t tokens = 0;
  int64_t depth = 0;  // tokens the sequence has seen before
};

struct BenchResult {
  BenchTest test;
  std::vector<double> tokens_per_s;  // the rate of each quiet sample
  size_t rejected = 0;               // samples a neighbour disturbed
  double achieved = 0;               // median: GB/s read and written (decode), GFLOP/s (prompt)
  double bound = 0;                  // the same, if every part ran at the machine's median bound for it
  size_t peak_bytes = 0;             // most memory the process had held by the end of this test's first run
};

/// Takes `rounds` undisturbed samples of each test, or as many as a limited number of attempts gives. `stop`, asked
/// within runs too, ends the measuring with the samples taken so far.
std::vector<BenchResult> run_bench(const model::Lm& lm, const model::ModelCost& cost, const Stream& stream,
                                   const std::vector<BenchTest>& tests, int64_t rounds,
                                   const std::function<bool()>& stop);

/// A model with the shapes of `files` and cheaply drawn weights: measures shapes without a checkpoint.
std::unique_ptr<model::Lm> random_model(const model::ModelFiles& files, const model::WeightTypes& types,
                                        const Stream& stream);

}  // namespace carousel::bench
