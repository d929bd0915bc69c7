// SPDX-License-Identifier: Apache-2.0
// The sampler's chain over a list of candidates. Each filter cuts the list; candidates are ordered only as far as a
// filter needs.
#include "carousel/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"

namespace carousel::generate {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kMaxLastN = int64_t{1} << 30;

void check_range(const char* name, double value, double min, double max) {
  if (!(value >= min && value <= max)) {
    fail(ErrorKind::kInput, "sampler: {} is {}, expected {} to {}", name, value, min, max);
  }
}

double log_sum_exp(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum);
}

}  // namespace

void SamplerParams::check() const {
  check_range("temp", temp, -std::numeric_limits<double>::max(), std::numeric_limits<double>::max());
  check_range("top_p", top_p, 0, 1);
  check_range("min_p", min_p, 0, 1);
  check_range("typical", typical, 0, 1);
  check_range("presence_penalty", presence_penalty, -kMost, kMost);
  check_range("frequency_penalty", frequency_penalty, -kMost, kMost);
  if (!(repeat_penalty > 0 && repeat_penalty <= kMost)) {
    fail(ErrorKind::kInput, "sampler: repeat_penalty is {}, expected above 0, up to {}", repeat_penalty, kMost);
  }
  if (repeat_last_n < -1 || repeat_last_n > kMaxLastN) {
    fail(ErrorKind::kInput, "sampler: repeat_last_n is {}, expected -1 to {}", repeat_last_n, kMaxLastN);
  }
  for (const auto& [id, bias] : logit_bias) {
    if (std::isnan(bias) || bias > kMost) {
      fail(ErrorKind::kInput, "sampler: logit_bias of token {} is {}, expected a number or -infinity", id, bias);
    }
  }
}

Sampler::Sampler(const SamplerParams& params, int64_t vocab_size, std::span<const uint8_t> sampleable,
                 std::span<const int32_t> end_tokens, uint64_t seed, uint64_t stream)
    : params_(params), vocab_size_(vocab_size), sampleable_(sampleable), seed_(seed), stream_(stream) {
  params_.check();
  CAROUSEL_ASSERT(sampleable.empty() || static_cast<int64_t>(sampleable.size()) == vocab_size);
  for (const auto& [id, bias] : params_.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      fail(ErrorKind::kInput, "sampler: logit_bias names token {}, expected 0 to {}", id, vocab_size - 1);
    }
  }
  if (params_.ignore_eos) {
    for (const int32_t id : end_tokens) {
      if (id >= 0 && id < vocab_size) params_.logit_bias.emplace_back(id, kMinusInfinity);
    }
  }
  const bool penalised = params_.repeat_penalty != 1 || params_.presence_penalty != 0 || params_.frequency_penalty != 0;
  const auto size = static_cast<size_t>(vocab_size);
  if (penalised && params_.repeat_last_n != 0) {
    counts_.resize(size);
    listed_.resize(size);
    seen_.reserve(size);
  }
  logits_.reserve(size);
  if (params_.temp > 0) candidates_.reserve(size);
}

void Sampler::accept(int32_t token) {
  if (counts_.empty() || token < 0 || token >= vocab_size_) return;
  if (params_.repeat_last_n > 0) {
    if (static_cast<int64_t>(window_.size()) < params_.repeat_last_n) {
      window_.push_back(token);
    } else {
      --counts_[static_cast<size_t>(window_[window_next_])];
      window_[window_next_] = token;
      window_next_ = (window_next_ + 1) % window_.size();
    }
  }
  ++counts_[static_cast<size_t>(token)];
  if (listed_[static_cast<size_t>(token)] == 0) {
    listed_[static_cast<size_t>(token)] = 1;
    seen_.push_back(token);
  }
}

/// logits_ = logits with bias and penalties.
void Sampler::adjust(std::span<const float> logits) {
  CAROUSEL_ASSERT(static_cast<int64_t>(logits.size()) == vocab_size_);
  logits_.assign(logits.begin(), logits.end());
  for (size_t id = 0; id < logits_.size(); ++id) {
    if (!sampleable_.empty() && sampleable_[id] == 0) {
      logits_[id] = kMinusInfinity;
    } else if (!(logits_[id] <= std::numeric_limits<float>::max())) {
      fail(ErrorKind::kInput, "sampler: the logit of token {} is {}, expected a finite number", id, logits_[id]);
    }
  }
  for (const auto& [id, bias] : params_.logit_bias) logits_[static_cast<size_t>(id)] += static_cast<float>(bias);
  for (size_t i = 0; i < seen_.size();) {
    const auto id = static_cast<size_t>(seen_[i]);
    if (counts_[id] == 0) {
      listed_[id] = 0;
      seen_[i] = seen_.back();
      seen_.pop_back();
      continue;
    }
    double logit = logits_[id];
    logit = logit <= 0 ? logit * params_.repeat_penalty : logit / params_.repeat_penalty;
    logit -= counts_[id] * params_.frequency_penalty + params_.presence_penalty;
    logits_[id] = static_cast<float>(std::min(logit, double{std::numeric_limits<float>::max()}));
    ++i;
  }
}

int32_t Sampler::greedy() const {
  const auto best = std::max_element(logits_.begin(), logits_.end());  // the first of equals: the lowest id
  if (*best == kMinusInfinity)
    fail(ErrorKind::kInput, "sampler: no token is left: mask and biases exclude all of them");
  return static_cast<int32_t>(best - logits_.begin());
}

/// Puts the `count` likeliest candidates first, in order. The rest is in no order but a fixed one.
void Sampler::order(size_t count) {
  count = std::min(count, candidates_.size());
  if (count <= ordered_) return;
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(ordered_);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(count);
  constexpr size_t kHeapLimit = 1024;  // beyond it a heap is slower than selecting and then sorting
  if (count - ordered_ <= kHeapLimit) {
    std::partial_sort(begin, end, candidates_.end(), likelier);
  } else {
    if (end != candidates_.end()) std::nth_element(begin, end, candidates_.end(), likelier);
    std::sort(begin, end, likelier);
  }
  ordered_ = count;
}

float Sampler::max_logit() const {
  float max = kMinusInfinity;
  for (const Candidate& c : candidates_) max = std::max(max, c.logit);
  return max;
}

/// Softmax weights of the candidates at `temp`; returns their sum.
double Sampler::weigh(double temp) {
  const double max = max_logit();
  double sum = 0;
  for (Candidate& c : candidates_) sum += c.weight = std::exp((c.logit - max) / temp);
  return sum;
}

void Sampler::keep_top_k() {
  if (params_.top_k <= 0 || params_.top_k >= static_cast<int64_t>(candidates_.size())) return;
  order(static_cast<size_t>(params_.top_k));
  candidates_.resize(ordered_);
}

/// Tokens whose surprise is nearest to the entropy, until they hold `typical` of the probability.
void Sampler::keep_typical() {
  if (params_.typical >= 1) return;
  const double sum = weigh(1);
  const double log_total = max_logit() + std::log(sum);
  double entropy = 0;
  for (const Candidate& c : candidates_) entropy -= c.weight / sum * (c.logit - log_total);
  for (Candidate& c : candidates_) c.weight = std::abs(log_total - c.logit - entropy);
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.id < b.id;
  });
  double total = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && total <= params_.typical) {
    total += std::exp(candidates_[kept++].logit - log_total);
  }
  candidates_.resize(kept);
  ordered_ = 0;
}

/// The likeliest tokens until they hold `top_p` of the probability.
void Sampler::keep_top_p() {
  if (params_.top_p >= 1) return;
  const double sum = weigh(1);
  double total = 0;
  size_t kept = 0;
  // Ordered as far as needed only: a sharp distribution over 100,000 tokens needs a few dozen.
  for (size_t reach = 64; kept < candidates_.size() && (kept == 0 || total < params_.top_p * sum); reach *= 4) {
    order(reach);
    while (kept < ordered_ && (kept == 0 || total < params_.top_p * sum)) total += candidates_[kept++].weight;
  }
  candidates_.resize(kept);
  ordered_ = std::min(ordered_, kept);
}

/// Tokens at least `min_p` times as likely as the likeliest.
void Sampler::keep_min_p() {
  if (params_.min_p <= 0) return;
  const double floor = max_logit() + std::log(params_.min_p);
  std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < floor; });
  ordered_ = std::min(ordered_, candidates_.size());
}

int32_t Sampler::draw(int64_t pos) {
  const double sum = weigh(params_.temp);
  // The position is the counter, so a resumed sequence draws what an uninterrupted one would have.
  const auto bits = philox(seed_, stream_, static_cast<uint64_t>(pos));
  const double uniform = ((static_cast<uint64_t>(bits[0]) << 21) ^ (bits[1] >> 11)) * 0x1p-53;
  double rest = uniform * sum;
  const Candidate* last = nullptr;
  for (const Candidate& c : candidates_) {
    if (c.weight <= 0) continue;
    last = &c;
    rest -= c.weight;
    if (rest < 0) break;
  }
  CAROUSEL_ASSERT(last != nullptr);
  return last->id;
}

int32_t Sampler::sample(std::span<const float> logits, int64_t pos) {
  adjust(logits);
  if (params_.temp <= 0) return greedy();
  candidates_.clear();
  ordered_ = 0;
  for (size_t id = 0; id < logits_.size(); ++id) {
    if (logits_[id] != kMinusInfinity) candidates_.push_back({logits_[id], static_cast<int32_t>(id), 0});
  }
  if (candidates_.empty()) return greedy();  // throws
  keep_top_k();
  keep_typical();
  keep_top_p();
  keep_min_p();
  return draw(pos);
}

float logprob_of(std::span<const float> logits, int32_t id) {
  return static_cast<float>(logits[static_cast<size_t>(id)] - log_sum_exp(logits));
}

void top_logprobs(std::span<const float> logits, int64_t count, std::vector<TokenLogprob>& out) {
  out.clear();
  if (count <= 0) return;
  const auto likelier = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  };
  // A heap of the best so far, the least of them on top: one comparison for nearly every token.
  const auto size = static_cast<size_t>(std::min(count, static_cast<int64_t>(logits.size())));
  out.reserve(size + 1);
  for (size_t id = 0; id < logits.size(); ++id) {
    const TokenLogprob token{static_cast<int32_t>(id), logits[id]};
    if (out.size() == size && !likelier(token, out.front())) continue;
    out.push_back(token);
    std::push_heap(out.begin(), out.end(), likelier);
    if (out.size() > size) {
      std::pop_heap(out.begin(), out.end(), likelier);
      out.pop_back();
    }
  }
  std::sort_heap(out.begin(), out.end(), likelier);
  const double total = log_sum_exp(logits);
  for (TokenLogprob& token : out) token.logprob = static_cast<float>(token.logprob - total);
}

}  // namespace carousel::generate
