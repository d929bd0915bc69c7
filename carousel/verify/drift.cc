// SPDX-License-Identifier: Apache-2.0
// Two ways of running one model, side by side: residual streams, states, logits, greedy tokens.
#include "carousel/verify/drift.h"

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"

namespace carousel::verify {
namespace {

constexpr int64_t kLogitRows = 64;  // rows of logits of each side held at a time

int32_t most_likely(const float* logits, int64_t vocab) {
  return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
}

class Comparing {
 public:
  Comparing(Side& a, Side& b) : a_(a), b_(b), vocab_(a.model.lm->vocab_size()) {}

  void slab(std::span<const int32_t> tokens);
  void compare_states();
  void compare_greedy(int64_t greedy, const std::function<bool()>& stop);
  const DriftReport& report() const { return report_; }

 private:
  void compare_logits(const Tensor& hidden_a, const Tensor& hidden_b);

  Side& a_;
  Side& b_;
  int64_t vocab_;
  DriftReport report_;
};

void Comparing::slab(std::span<const int32_t> tokens) {
  const Tensor hidden_a = a_.forward(tokens), hidden_b = b_.forward(tokens);
  const auto& rows_a = a_.residuals.rows();
  const auto& rows_b = b_.residuals.rows();
  report_.sublayers.resize(rows_a.size());
  for (size_t i = 0; i < rows_a.size(); ++i) {
    report_.sublayers[i].add(rows_a[i].data(), rows_b[i].data(), static_cast<int64_t>(rows_a[i].size()));
  }
  compare_logits(hidden_a, hidden_b);
}

void Comparing::compare_logits(const Tensor& hidden_a, const Tensor& hidden_b) {
  const int64_t rows = hidden_a.dim(0);
  for (int64_t begin = 0; begin < rows; begin += kLogitRows) {
    const int64_t end = std::min(rows, begin + kLogitRows);
    const Tensor a = a_.runner.logits(hidden_a.rows(begin, end)).to_host();
    const Tensor b = b_.runner.logits(hidden_b.rows(begin, end)).to_host();
    report_.logits.add(a.f32(), b.f32(), a.count());
    for (int64_t n = 0; n < end - begin; ++n) {
      report_.agree += most_likely(a.f32() + n * vocab_, vocab_) == most_likely(b.f32() + n * vocab_, vocab_) ? 1 : 0;
    }
    const int64_t last = (end - begin - 1) * vocab_;
    a_.last.assign(a.f32() + last, a.f32() + last + vocab_);
    b_.last.assign(b.f32() + last, b.f32() + last + vocab_);
  }
  report_.tokens += rows;
}

void Comparing::compare_states() {
  const NamedTensors a = a_.state.tensors(a_.model.state_layout()), b = b_.state.tensors(b_.model.state_layout());
  for (size_t i = 0; i < a.size(); ++i) {
    report_.states.push_back({a[i].name, {}});
    report_.states.back().drift.add(a[i].tensor.f32(), b[i].tensor.f32(), a[i].tensor.count());
  }
}

// Each side goes on with its own likeliest tokens.
void Comparing::compare_greedy(int64_t greedy, const std::function<bool()>& stop) {
  bool same = true;
  for (; report_.greedy < greedy && !stop(); ++report_.greedy) {
    const int32_t token_a = most_likely(a_.last.data(), vocab_), token_b = most_likely(b_.last.data(), vocab_);
    same = same && token_a == token_b;
    if (same) ++report_.greedy_agree;
    if (!same) continue;  // from here on the two read different texts
    const Tensor logits_a = a_.runner.logits(a_.forward({&token_a, 1})).to_host();
    const Tensor logits_b = b_.runner.logits(b_.forward({&token_b, 1})).to_host();
    a_.last.assign(logits_a.f32(), logits_a.f32() + vocab_);
    b_.last.assign(logits_b.f32(), logits_b.f32() + vocab_);
  }
}

}  // namespace

void Drift::add(const float* a, const float* b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double d = static_cast<double>(b[i]) - static_cast<double>(a[i]);
    difference += d * d;
    size += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    if (!std::isnan(largest) && !(std::abs(d) <= largest)) largest = std::abs(d);  // NaN stays
  }
}

double Drift::relative() const { return difference == 0 ? 0 : std::sqrt(difference) / std::sqrt(size); }

void Residuals::residual(size_t count, const Tensor& x) {
  if (rows_.size() <= count) rows_.resize(count + 1);
  const Tensor seen = x.to_host();
  rows_[count].assign(seen.f32(), seen.f32() + seen.count());
}

Side::Side(const std::string& path, const Numerics& numerics, const Stream& stream)
    : model(model::load(path, stream, model::ModelKind::kLanguage, numerics)),
      runner(*model.lm, stream, *model.numerics) {
  runner.observe(&residuals);
}

Tensor Side::forward(std::span<const int32_t> tokens) {
  State* const states[] = {&state};
  const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
  return runner.forward(tokens, states, lengths);
}

DriftReport measure_drift(Side& a, Side& b, std::span<const int32_t> tokens, int64_t greedy,
                          const std::function<bool()>& stop,
                          const std::function<void(int64_t done, int64_t total)>& progress) {
  Comparing comparing(a, b);
  const auto count = static_cast<int64_t>(tokens.size());
  progress(0, count);
  constexpr int64_t kRows = 512;
  for (int64_t begin = 0; begin < count && !stop(); begin += kRows) {
    const int64_t rows = std::min(kRows, count - begin);
    comparing.slab(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)));
    progress(begin + rows, count);
  }
  if (stop()) fail(ErrorKind::kCancelled, "compare: interrupted");
  comparing.compare_states();
  comparing.compare_greedy(greedy, stop);
  return comparing.report();
}

}  // namespace carousel::verify
