// SPDX-License-Identifier: Apache-2.0
// How well a model predicts given tokens: the likelihood of a text in windows, and of the ends of passages. Windows and
// passages are batched; the rest of a batch changes no bit of a result.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "carousel/model/runner.h"

namespace carousel::generate {

/// Is called after every batch with the predictions done and in all; returning false stops there.
using EvalProgress = std::function<bool(int64_t done, int64_t total)>;

struct TextScore {
  double nll = 0;        // sum over the predictions, nats
  int64_t tokens = 0;    // predictions made
  bool complete = true;  // false: stopped early; the numbers cover the finished windows
};

/// Windows of `window` predictions over ids [n]: window k reads ids[kW .. kW + W) from the zero state and is asked for
/// ids[kW + 1 .. kW + W]. Neighbours share their border token; a last short window counts. Makes n - 1 predictions.
TextScore score_text(model::Runner& runner, std::span<const int32_t> ids, int64_t window,
                     const EvalProgress& progress = {});

/// A passage whose last tokens are to be predicted. context and target hold at least one token each.
struct Passage {
  std::vector<int32_t> context;
  std::vector<int32_t> target;
};

struct PassageScore {
  int64_t passages = 0;
  int64_t correct = 0;  // passages whose every target token was the most likely one
  double nll = 0;       // sum over all target tokens, nats
  int64_t tokens = 0;   // target tokens
  bool complete = true;
};

/// Greedy accuracy and likelihood of every passage's target. Progress counts passages.
PassageScore score_passages(model::Runner& runner, std::span<const Passage> passages,
                            const EvalProgress& progress = {});

/// Throws Error(kInput) naming the model if nll is NaN: activations that overflow give no likelihood.
void check_likelihood(double nll, const std::string& model);

}  // namespace carousel::generate
