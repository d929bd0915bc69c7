// SPDX-License-Identifier: Apache-2.0
// The measurements of `carousel bench MODEL --serve`: what a server takes beside what the same work takes without it,
// in the same run and in turns, so that a busy machine slows both.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "carousel/core/quantile.h"
#include "carousel/core/stream.h"
#include "carousel/model/load.h"

namespace carousel::serve {

/// How large the work is. The defaults are those that bounds are stated for.
struct MeasureOptions {
  int64_t rounds = 5;
  std::vector<std::string> only;  // names of lines; empty: all
  std::string scratch;            // a folder, in which the lines with a store make one of their own
  int64_t stream_tokens = 128;    // of each stream whose tokens are counted
  int64_t seen_tokens = 16384;    // of the prompt that is read again
  int64_t forked_tokens = 4096;   // of the prompt that choices share
  int64_t choices = 64;           // of it
  int64_t read_tokens = 32768;    // of the prompt that is read beside a stream
  double phase_seconds = 2;       // that gaps are noted while states are saved, and as long without
  int64_t open_streams = 2000;    // at a time
  int64_t repeats = 50;           // of short requests, in a round
};

/// One line: what was measured, the counterpart of each round, and what comes of both.
struct Measured {
  std::string name;             // "streams-64"
  std::string work;             // what is measured / its counterpart
  std::string unit;             // of `served` and `beside`: "tokens/s", "ms", "KiB"
  std::vector<double> served;   // [rounds] what the server gave
  std::vector<double> beside;   // [rounds] the counterpart of the same round, or a bound in the same unit
  bool counterpart = true;      // `beside` was measured
  double value = 0, bound = 0;  // the median of served / beside, and its bound
  bool at_least = false;        // the bound is the least that is wanted, otherwise the most
  bool holds() const { return at_least ? value >= bound : value <= bound; }
};

/// The names of all lines, in their order.
std::vector<std::string> measured_names();

/// Measures the lines one after the other; `told` hears of each. A model without a tokenizer cannot be served. `stop`
/// ends the measuring with the lines that are whole. Throws Error(kIo) where the server fails.
void measure_serving(const model::Model& model, const Stream& stream, const MeasureOptions& options,
                     const std::function<void(const Measured&)>& told, const std::function<bool()>& stop);

}  // namespace carousel::serve
