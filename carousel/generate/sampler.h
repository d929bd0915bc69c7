// SPDX-License-Identifier: Apache-2.0
// From the logits of one sequence to its next token. The chain, its names and its defaults are llama.cpp's. It is bias
// and penalties; then top_k, typical (Meister et al., arXiv:2202.00666), top_p (Holtzman et al., arXiv:1904.09751),
// min_p (Nguyen et al., arXiv:2407.01082), temperature; then a draw that depends on seed, stream and position alone.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace carousel::generate {

struct SamplerParams {
  static constexpr double kMost = 1e30;  // the largest penalty or bias: sums of them stay finite in f32

  double temp = 0.8;                                   // <= 0: greedy
  int64_t top_k = 40;                                  // <= 0: off
  double top_p = 0.95;                                 // 1: off
  double min_p = 0.05;                                 // 0: off
  double typical = 1.0;                                // 1: off
  double repeat_penalty = 1.0;                         // 1: off
  double presence_penalty = 0;                         // 0: off
  double frequency_penalty = 0;                        // 0: off
  int64_t repeat_last_n = 64;                          // tokens the penalties look back on; 0: off, -1: all
  std::vector<std::pair<int32_t, double>> logit_bias;  // id, bias; -infinity bans it
  bool ignore_eos = false;                             // end tokens are never sampled

  /// Throws Error(kInput) naming the first value out of range.
  void check() const;
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};

/// One sequence's sampler. A copy continues independently; nothing is allocated per token in the steady state.
class Sampler {
 public:
  /// sampleable [V], 0: never sampled; empty: all may be. It must outlive the sampler. Throws Error(kInput): params
  /// out of range, a biased id outside the vocabulary.
  Sampler(const SamplerParams& params, int64_t vocab_size, std::span<const uint8_t> sampleable,
          std::span<const int32_t> end_tokens, uint64_t seed, uint64_t stream);

  void set_stream(uint64_t stream) { stream_ = stream; }
  /// Counts a token of the prompt or of the text so far for the penalties.
  void accept(int32_t token);
  /// The token at position `pos`, from logits [V]. Throws Error(kInput) when a logit is NaN or +infinity, or when no
  /// token is left.
  int32_t sample(std::span<const float> logits, int64_t pos);

 private:
  struct Candidate {
    float logit = 0;
    int32_t id = 0;
    double weight = 0;  // what the current filter orders or sums by
  };
  void adjust(std::span<const float> logits);
  int32_t greedy() const;
  void order(size_t count);
  float max_logit() const;
  double weigh(double temp);
  void keep_top_k();
  void keep_typical();
  void keep_top_p();
  void keep_min_p();
  int32_t draw(int64_t pos);

  SamplerParams params_;
  int64_t vocab_size_;
  std::span<const uint8_t> sampleable_;  // [V], or empty
  uint64_t seed_;
  uint64_t stream_;
  std::vector<int32_t> window_;  // the last repeat_last_n tokens, a ring; unused when repeat_last_n is -1
  size_t window_next_ = 0;
  std::vector<int32_t> counts_;  // [V] how often each id is in the window; empty: no penalty is on
  std::vector<int32_t> seen_;    // all ids whose count is not 0, and some whose count is 0 again
  std::vector<uint8_t> listed_;  // [V] 1: in seen_
  std::vector<float> logits_;    // [V] after bias and penalties
  std::vector<Candidate> candidates_;
  size_t ordered_ = 0;  // so many first candidates are in order: falling logit, then rising id
};

/// log softmax(logits)[id] of the raw logits [V].
float logprob_of(std::span<const float> logits, int32_t id);
/// The `count` most likely tokens, most likely first, into `out` (replaced).
void top_logprobs(std::span<const float> logits, int64_t count, std::vector<TokenLogprob>& out);

}  // namespace carousel::generate
