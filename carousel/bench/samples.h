// SPDX-License-Identifier: Apache-2.0
// How `carousel bench` takes times on a machine it shares: every sample is taken between probes of its bounds, so that
// a busy neighbour slows both. A sample is rejected and taken again, a limited number of times, if the f32 probe before
// or after it is below nine tenths of the best, or if threads of this process waited for a core within it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "carousel/core/stream.h"

namespace carousel::bench {

/// One timing, and the rates of the machine around it, in the units of cpu::Bounds.
struct Sample {
  double seconds = 0;
  double read = 0, scale = 0, f32 = 0, bf16 = 0, int8 = 0, cache = 0;
  double quiet = 0;   // the slower of the two f32 probes around it
  double waited = 0;  // seconds that its threads together waited for a core, over the time it took
};

/// The work that one line of a table times.
struct Sampled {
  std::function<double()> run;                  // returns the seconds of one call
  size_t cached_bytes = 0;                      // not 0: also probe a cache that holds these bytes per thread
  bool needs_bf16 = false, needs_int8 = false;  // probe these peaks too
};

/// The samples of one line.
class Samples {
 public:
  void add(const Sample& sample) { all_.push_back(sample); }
  std::vector<Sample> quiet() const;  // the samples that are not rejected: at least one, unless there are none
  size_t rejected() const { return all_.size() - quiet().size(); }
  double median(double Sample::*field) const;  // over the quiet samples
  bool empty() const { return all_.empty(); }

 private:
  std::vector<Sample> all_;
};

/// Takes `rounds` quiet samples of each line, all lines in turns; no more than `most_attempts` samples of any. `stop`,
/// asked before and after every sample, ends the measuring with the samples taken before.
std::vector<Samples> take_samples(const std::vector<Sampled>& what, const Stream& stream, int64_t rounds,
                                  int64_t most_attempts, const std::function<bool()>& stop);

}  // namespace carousel::bench
