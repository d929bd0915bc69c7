// SPDX-License-Identifier: Apache-2.0
// Takes samples between probes of the machine, all lines in turns.
#include "carousel/bench/samples.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>

#include "carousel/core/quantile.h"
#include "carousel/core/run_queue.h"
#include "carousel/cpu/bounds.h"

namespace carousel::bench {
namespace {

constexpr double kQuiet = 0.9;
constexpr double kMostWaited = 0.01;  // threads of the system itself take a few tens of microseconds at a time
constexpr size_t kProbeMemory = size_t{256} << 20;
constexpr double kProbeSeconds = 0.004;

/// The machine's rates, of which a device measures its own.
class Probe {
 public:
  explicit Probe(const Stream& stream) : stream_(stream) {}
  /// Fills the rates that `what` needs, but f32; returns that.
  double take(const Sampled& what, Sample* sample) {
    if (const std::optional<DeviceRates> rates = stream_.memory->measure_rates()) {
      sample->read = sample->scale = rates->copy_gb_per_s;
      sample->bf16 = rates->bf16_gflop_per_s;
      return rates->f32_gflop_per_s;
    }
    if (!host_) host_.emplace(stream_, kProbeMemory, kProbeSeconds);
    sample->read = host_->read_gb_per_s();
    sample->scale = host_->scale_gb_per_s();
    if (what.needs_bf16) sample->bf16 = host_->bf16_gflop_per_s();
    if (what.needs_int8) sample->int8 = host_->int8_gop_per_s();
    if (what.cached_bytes > 0) sample->cache = host_->cache_read_gb_per_s(what.cached_bytes);
    return host_->f32_gflop_per_s();
  }
  /// The f32 rate alone, after take().
  double f32() { return host_ ? host_->f32_gflop_per_s() : stream_.memory->measure_rates()->f32_gflop_per_s; }

 private:
  const Stream& stream_;
  std::optional<cpu::BoundsProbe> host_;
};

Sample take_sample(const Sampled& what, Probe& probe) {
  Sample sample;
  const double before = probe.take(what, &sample);
  const double waited = seconds_waited_for_cores();
  const auto begin = std::chrono::steady_clock::now();
  sample.seconds = what.run();
  const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  sample.waited = (seconds_waited_for_cores() - waited) / std::max(whole, 1e-9);
  const double after = probe.f32();
  sample.f32 = std::max(before, after);
  sample.quiet = std::min(before, after);
  return sample;
}

}  // namespace

std::vector<Sample> Samples::quiet() const {
  double best = 0, least = std::numeric_limits<double>::infinity();
  for (const Sample& sample : all_) best = std::max(best, sample.quiet);
  std::vector<Sample> fast, quiet;
  for (const Sample& sample : all_) {
    if (sample.quiet < kQuiet * best) continue;
    fast.push_back(sample);
    least = std::min(least, sample.waited);
  }
  // On a machine that is never quiet the sample that waited least stands for all.
  for (const Sample& sample : fast) {
    if (sample.waited <= std::max(kMostWaited, least)) quiet.push_back(sample);
  }
  return quiet;
}

double Samples::median(double Sample::*field) const {
  std::vector<double> values;
  for (const Sample& sample : quiet()) values.push_back(sample.*field);
  return carousel::median(values);
}

std::vector<Samples> take_samples(const std::vector<Sampled>& what, const Stream& stream, int64_t rounds,
                                  int64_t most_attempts, const std::function<bool()>& stop) {
  Probe probe(stream);
  std::vector<Samples> samples(what.size());
  for (int64_t attempt = 0; attempt < most_attempts && !stop(); ++attempt) {
    bool enough = true;
    for (size_t i = 0; i < what.size() && !stop(); ++i) {
      if (samples[i].quiet().size() >= static_cast<size_t>(rounds)) continue;
      const Sample sample = take_sample(what[i], probe);
      if (stop()) break;  // the run may have ended half way
      samples[i].add(sample);
      enough = false;
    }
    if (enough) break;
  }
  return samples;
}

}  // namespace carousel::bench
