// SPDX-License-Identifier: Apache-2.0
// The text of /metrics, and the bounds of its histograms: 1, 2 and 5 times powers of ten.
#include "carousel/serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "carousel/serve/service.h"

namespace carousel::serve {
namespace {

constexpr const char* kPrefix = "carousel:";
constexpr const char* kReasons[] = {"stop", "length", "abort", "error"};  // by RequestMetrics::Reason

/// 1, 2, 5, 10, ... times `least`, `decades` times over.
std::vector<double> bounds(double least, int decades) {
  std::vector<double> out;
  for (int i = 0; i < decades; ++i, least *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) out.push_back(least * step);
  }
  return out;
}

double seconds_between(ChoiceClock::Time begin, ChoiceClock::Time end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

MetricsText::MetricsText(const std::string& model) {
  for (const char c : model) {
    if (c == '\\' || c == '"') label_ += '\\';
    label_ += c == '\n' ? ' ' : c;
  }
  label_ = "model_name=\"" + label_ + "\"";
}

void MetricsText::type(const std::string& name, const char* kind) {
  text_ += fmt::format("# TYPE {}{} {}\n", kPrefix, name, kind);
}

void MetricsText::line(const std::string& name, double value, const std::string& labels) {
  text_ += fmt::format("{}{}{{{}{}{}}} {}\n", kPrefix, name, label_, labels.empty() ? "" : ",", labels, value);
}

void Histogram::add(double value) {
  const auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  counts_[static_cast<size_t>(bound - bounds_.begin())]++;
  sum_ += value;
}

void Histogram::write(MetricsText& out, const std::string& name) const {
  out.type(name, "histogram");
  int64_t below = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    below += counts_[i];
    const std::string bound = i < bounds_.size() ? fmt::format("{:g}", bounds_[i]) : "+Inf";
    out.line(name + "_bucket", static_cast<double>(below), "le=\"" + bound + "\"");
  }
  out.line(name + "_sum", sum_);
  out.line(name + "_count", static_cast<double>(below));
}

RequestMetrics::RequestMetrics()
    : first_token_(bounds(0.001, 6)),
      between_tokens_(bounds(0.0001, 6)),
      per_token_(bounds(0.0001, 6)),
      whole_(bounds(0.001, 7)),
      prompt_(bounds(1, 7)),
      generated_(bounds(1, 6)) {}

void RequestMetrics::token(ChoiceClock& clock, ChoiceClock::Time at) {
  if (clock.tokens_++ == 0) {
    clock.first_ = at;
    first_token_.add(seconds_between(clock.begin_, at));
  } else {
    between_tokens_.add(seconds_between(clock.last_, at));
  }
  clock.last_ = at;
}

void RequestMetrics::end(const ChoiceClock& clock, ChoiceClock::Time at, int64_t prompt, Reason reason) {
  whole_.add(seconds_between(clock.begin_, at));
  prompt_.add(static_cast<double>(prompt));
  generated_.add(static_cast<double>(clock.tokens_));
  if (clock.tokens_ > 1) {
    per_token_.add(seconds_between(clock.first_, clock.last_) / static_cast<double>(clock.tokens_ - 1));
  }
  ended_[reason]++;
}

void RequestMetrics::write(MetricsText& out) const {
  first_token_.write(out, "time_to_first_token_seconds");
  between_tokens_.write(out, "inter_token_latency_seconds");
  per_token_.write(out, "request_time_per_output_token_seconds");
  whole_.write(out, "e2e_request_latency_seconds");
  prompt_.write(out, "request_prompt_tokens");
  generated_.write(out, "request_generation_tokens");
  out.type("request_success_total", "counter");
  for (size_t i = 0; i < std::size(kReasons); ++i) {
    out.line("request_success_total", static_cast<double>(ended_[i]),
             fmt::format("finished_reason=\"{}\"", kReasons[i]));
  }
}

/// Prometheus's text, with vLLM's names where it has one.
void Service::metrics(const std::shared_ptr<Call>& call, const std::string&) {
  const EngineFigures& figures = served_.engine.figures();
  MetricsText out(options_.name);
  const auto add = [&](const char* name, const char* kind, auto value) {
    out.add(name, kind, static_cast<double>(value));
  };
  add("num_requests_running", "gauge", figures.running.load());
  add("num_requests_waiting", "gauge", figures.waiting.load());
  add("prompt_tokens_total", "counter", figures.prompt_tokens.load());
  add("generation_tokens_total", "counter", figures.generated_tokens.load());
  served_.metrics.write(out);
  add("prefix_cache_queries_total", "counter", figures.cache_queries.load());
  add("prefix_cache_hits_total", "counter", figures.cache_hits.load());
  out.type("prefix_cache_misses_total", "counter");
  for (size_t i = 0; i < figures.cache_misses.size(); ++i) {
    out.line("prefix_cache_misses_total", static_cast<double>(figures.cache_misses[i].load()),
             fmt::format("reason=\"{}\"", kMissNames[i]));
  }
  add("prefix_cache_bytes", "gauge", figures.cache_bytes.load());
  add("prefix_cache_states", "gauge", figures.cache_states.load());
  add("prefix_cache_evictions_total", "counter", figures.cache_evictions.load());
  add("idle_prompt_tokens_total", "counter", figures.reread_tokens.load());
  add("idle_texts_waiting", "gauge", figures.reread_waiting.load());
  add("idle_texts_dropped_total", "counter", figures.reread_dropped.load());
  add("running_state_bytes", "gauge", figures.reserved_bytes.load());
  add("states", "gauge", served_.states.count());
  add("state_bytes", "gauge", served_.states.bytes());
  add("store_bytes", "gauge", served_.states.stored_bytes());
  add("store_failures_total", "counter", served_.states.failures());
  add("ticks_total", "counter", figures.ticks.load());
  add("calls_answered_total", "counter", answered_);
  add("calls_refused_total", "counter", refused_);
  call->answer(200, out.text(), "text/plain; version=0.0.4");
}

}  // namespace carousel::serve
