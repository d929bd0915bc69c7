// SPDX-License-Identifier: Apache-2.0
// Times whole steps of a training run: forward, backward and the update, on random tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "carousel/core/stream.h"

namespace carousel::bench {

struct TrainShape {
  int64_t batch = 8;   // rows of a step
  int64_t rows = 512;  // tokens of a row
  bool recompute = false;
};

struct TrainResult {
  std::vector<double> tokens_per_s;  // the rate of each quiet sample
  size_t rejected = 0;               // samples a neighbour disturbed
  double gflop_per_s = 0;            // of matrix products: six operations per weight and token
  double peak_gflop_per_s = 0;       // the machine's f32 multiply-adds around the samples
  size_t peak_bytes = 0;             // of memory that the process has held
  size_t activation_bytes = 0;       // what the arena holds
};

/// `rounds` undisturbed samples of a step of the language model at `path`, a folder or a config. Throws as load_trained
/// does, and kInput for another kind of model and, before anything is allocated, where memory lacks for the step.
TrainResult run_train_bench(const std::string& path, const Stream& stream, const TrainShape& shape, int64_t rounds,
                            const std::function<bool()>& stop);

}  // namespace carousel::bench
