// SPDX-License-Identifier: Apache-2.0
// The measurements of `carousel bench`. Every round runs each test once and measures the machine's bounds, so that a
// busy minute falls on all alike.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "carousel/cli/model_cost.h"
#include "carousel/cpu/bounds.h"
#include "carousel/model/lm.h"

namespace carousel::cli {

struct BenchTest {
  bool decode = false;  // token by token; otherwise a prompt and the logits after it
  int64_t tokens = 0;
  int64_t depth = 0;  // tokens the sequence has seen before
};

struct BenchResult {
  BenchTest test;
  std::vector<double> tokens_per_s;  // [rounds]
  double achieved = 0;               // median: GB/s read and written (decode), GFLOP/s of projections (prompt)
  double bound = 0;                  // median of the machine's, in the same unit
};

/// `stop`, asked before every run, ends the measuring with the rounds finished so far.
std::vector<BenchResult> run_bench(const model::Lm& lm, const ModelCost& cost, const Stream& stream,
                                   const std::vector<BenchTest>& tests, int64_t rounds,
                                   const std::function<bool()>& stop);

/// A model of `files`' shape with cheaply drawn weights, to measure shapes no checkpoint is at hand for.
std::unique_ptr<model::Lm> random_model(const ModelFiles& files, const model::WeightTypes& types, const Stream& stream);

double median(std::vector<double> values);

}  // namespace carousel::cli
