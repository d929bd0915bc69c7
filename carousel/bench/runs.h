// SPDX-License-Identifier: Apache-2.0
// The measurements of `carousel bench` on a model, and the rate of each at the machine's bounds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "carousel/model/cost.h"
#include "carousel/model/lm.h"
#include "carousel/model/runner.h"

namespace carousel::bench {

struct BenchTest {
  bool decode = false;  // token by token; otherwise a prompt and the logits after it
  int64_t tokens = 0;
  int64_t depth = 0;  // tokens a sequence has seen before
  int64_t batch = 1;  // sequences that decode side by side, a token of each in one forward; 1 for a prompt
};

struct BenchResult {
  BenchTest test;
  std::vector<double> tokens_per_s;  // the rate of each quiet sample, all sequences together
  size_t rejected = 0;               // samples a neighbour disturbed
  double achieved = 0;               // median: GB/s read and written (decode), GFLOP/s (prompt)
  double bound = 0;                  // in the same unit, if every part ran at the machine's median bound for it
  size_t peak_bytes = 0;             // of memory the process had held after this test's first run
  size_t activation_bytes = 0;       // of this test alone: what an arena reserves for its first forward and logits
  bool in_cache = false;             // what a forward reads fits into the last level of cache
};

/// `rounds` undisturbed samples of each test, if they can be had. `stop`, asked within runs too, ends the measuring
/// with the samples taken so far. Throws as check_memory().
std::vector<BenchResult> run_bench(const model::Lm& lm, const model::ModelCost& cost, const Stream& stream,
                                   const std::vector<BenchTest>& tests, int64_t rounds,
                                   const std::function<bool()>& stop);

/// Runs one test on copies of the state it starts from; returns seconds, or anything when stopped. The copies share
/// nothing, so that neither the copying nor the first touch of their pages is timed.
double run_once(model::Runner& runner, const StateLayout& layout, const BenchTest& test, const State& start,
                const std::vector<int32_t>& tokens, const std::function<bool()>& stop);
/// Ids for a test.
std::vector<int32_t> random_tokens(int64_t count, int64_t vocab);
/// Throws Error(kInput) where the system has no memory for the tests' sequences and activations.
void check_memory(const model::Lm& lm, const Stream& stream, const std::vector<BenchTest>& tests);

/// A model with the shapes of `files` and cheaply drawn weights: measures shapes without a checkpoint.
std::unique_ptr<model::Lm> random_model(const model::ModelFiles& files, const model::WeightTypes& types,
                                        const Stream& stream);

}  // namespace carousel::bench
