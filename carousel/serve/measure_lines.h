// SPDX-License-Identifier: Apache-2.0
// The lines of measure.cc share a setting, and each does its work round by round.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "carousel/serve/loopback.h"
#include "carousel/serve/measure.h"

namespace carousel::serve {

struct Setting {
  const model::Model& model;
  const Stream& stream;
  const MeasureOptions& options;
  const std::function<bool()>& stop;

  /// A server with room for everything that is measured. `store`: its folder; empty: none. `state_bytes`: for states
  /// that are kept in memory.
  std::unique_ptr<Loopback> serve(const std::string& store = "", size_t state_bytes = size_t{4} << 30) const;
  /// Drawn token ids of the model. `draw`: others for each number.
  std::vector<int32_t> prompt(int64_t tokens, uint64_t draw) const;
  /// A completion of `max_tokens` tokens in events, all of which come: no end token is sampled.
  Json body(int64_t prompt_tokens, int64_t max_tokens, uint64_t draw) const;
};

/// One round of a line.
struct Pair {
  double served = 0, beside = 0;
};

/// A line under way: made once, with what its rounds share.
class Line {
 public:
  virtual ~Line() = default;
  virtual Pair round(uint64_t number) = 0;
};
std::unique_ptr<Line> make_streams(const Setting& setting, int64_t streams);
std::unique_ptr<Line> make_seen(const Setting& setting);
std::unique_ptr<Line> make_stored(const Setting& setting);
std::unique_ptr<Line> make_choices(const Setting& setting);
std::unique_ptr<Line> make_gap_read(const Setting& setting);
std::unique_ptr<Line> make_gap_saved(const Setting& setting);
std::unique_ptr<Line> make_open_memory(const Setting& setting);
std::unique_ptr<Line> make_open_health(const Setting& setting);
std::unique_ptr<Line> make_disconnect(const Setting& setting);

constexpr int64_t kEndless = int64_t{1} << 24;  // tokens of a stream that goes on while others are measured
constexpr double kTickMs = 100;                 // the default of --tick-ms

inline double ms_between(Caller::Time begin, Caller::Time end) {
  return std::chrono::duration<double, std::milli>(end - begin).count();
}
inline double ms_since(Caller::Time begin) { return ms_between(begin, std::chrono::steady_clock::now()); }

/// The milliseconds between neighbours of `times` from index `first` on.
inline std::vector<double> gaps(const std::vector<Caller::Time>& times, size_t first) {
  std::vector<double> out;
  for (size_t i = first + 1; i < times.size(); ++i) out.push_back(ms_between(times[i - 1], times[i]));
  return out;
}

/// A caller that has asked, appended to `callers`.
Caller& call(const Loopback& server, Callers& callers, const Json& body, const std::string& path = "/v1/completions");
/// The milliseconds from asking to the first event, or to the end of an answer without events.
double first_token_ms(const Setting& setting, const Loopback& server, const Json& body);
/// Streams that go on until they leave, each past its first token.
void begin_endless(const Setting& setting, const Loopback& server, Callers& callers, int64_t count);

}  // namespace carousel::serve
