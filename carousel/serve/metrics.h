// SPDX-License-Identifier: Apache-2.0
// How long requests took and how long they were, for /metrics: histograms with vLLM's names. Of the io thread alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace carousel::serve {

/// Prometheus's text: one line per figure, all with the label of the model.
class MetricsText {
 public:
  explicit MetricsText(const std::string& model);

  /// kind: "gauge", "counter" or "histogram"; before the lines of a name.
  void type(const std::string& name, const char* kind);
  /// labels: more of them, as `reason="stop"`; empty: none.
  void line(const std::string& name, double value, const std::string& labels = "");
  void add(const std::string& name, const char* kind, double value) {
    type(name, kind);
    line(name, value);
  }
  const std::string& text() const { return text_; }

 private:
  std::string label_;
  std::string text_;
};

class Histogram {
 public:
  /// bounds: ascending.
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void add(double value);
  void write(MetricsText& out, const std::string& name) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // [bounds + 1] values up to each bound and above the one before; then the rest
  double sum_ = 0;
};

/// The times of one choice.
class ChoiceClock {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit ChoiceClock(Time begin) : begin_(begin) {}

 private:
  friend class RequestMetrics;
  Time begin_, first_, last_;
  int64_t tokens_ = 0;
};

/// Every choice of a request counts as a request.
class RequestMetrics {
 public:
  enum Reason { kStop, kLength, kAbort, kError };

  RequestMetrics();
  void token(ChoiceClock& clock, ChoiceClock::Time at);
  /// prompt: its tokens.
  void end(const ChoiceClock& clock, ChoiceClock::Time at, int64_t prompt, Reason reason);
  /// A choice that ends without having been answered whole.
  void broken(Reason reason) { ended_[reason]++; }
  void write(MetricsText& out) const;

 private:
  Histogram first_token_, between_tokens_, per_token_, whole_, prompt_, generated_;
  int64_t ended_[4] = {};  // choices, by Reason
};

}  // namespace carousel::serve
