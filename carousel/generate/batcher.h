// SPDX-License-Identifier: Apache-2.0
// Continuous batching over States: every tick is one forward of all live sequences, pieces of prompts and single tokens
// mixed, then a sampled token for each that is due one. What else is in the batch changes no bit of a sequence.
// generate() for one prompt is a batcher of one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/state.h"
#include "carousel/generate/sampler.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "carousel/model/saved_state.h"

namespace carousel::generate {

/// One sampled token, valid during the callback. End tokens are not reported here.
struct Emitted {
  int64_t sample = 0;  // which of the request's samples
  int64_t index = 0;   // 0 for its first token
  int32_t id = 0;
  std::string_view text;              // what became printable with this token: whole characters, or nothing yet
  float logprob = 0;                  // of the model's own distribution, before the sampler's chain
  std::span<const TokenLogprob> top;  // the likeliest tokens, as many as asked for
};

enum class StopReason { kEndToken, kStopString, kLength, kCancelled, kFailed };
std::string_view stop_reason_name(StopReason reason);  // "end_token", "stop_string", "length", "cancelled", "failed"

struct Finished {
  int64_t sample = 0;
  StopReason reason = StopReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t tokens = 0;     // sampled, end token included
  std::string_view text;  // held back so far and due now
  std::string error;      // of kFailed
  // With keep_state: the memory of all tokens seen, which are those of the text and, after kStopString, of the stop
  // string; of the prompt so far when cancelled within it (logits are empty then).
  State state;
  std::vector<int32_t> history;  // [state.pos()]
  Tensor logits;                 // [V] after the last of them
};

struct Request {
  std::vector<int32_t> prompt;   // follows what `state` has seen
  State state;                   // empty: from the start
  std::vector<int32_t> history;  // [state.pos()] the tokens it has seen; penalties count them
  Tensor logits;                 // [V] after the last of them: required when there is no prompt
  SamplerParams sampler;
  uint64_t seed = 0;
  uint64_t stream = 0;      // sample k draws from stream + k
  int64_t samples = 1;      // continuations of the one prompt, forked when it has been read
  int64_t max_tokens = -1;  // of each; -1: no limit
  std::vector<std::string> stop;
  bool logprobs = false;
  int64_t top_logprobs = 0;
  bool keep_state = false;
  std::function<bool(const Emitted&)> on_token;  // false cancels this sample
  std::function<void(Finished&)> on_finish;
};

class Batcher {
 public:
  /// Both must outlive the batcher. Not for use by two threads at once.
  Batcher(const model::Model& model, const Stream& stream);
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  /// Queues a request. Throws Error(kInput): neither prompt nor logits, a token outside the vocabulary, sampler
  /// values out of range.
  void submit(Request request);
  size_t live() const { return live_.size() + born_.size(); }
  /// While the first sequence reads its prompt: what it has read so far, if it keeps a state. Between ticks.
  std::optional<model::SavedState> prefix() const;

  struct Rows {
    int64_t prompt = 0;  // rows of prompts
    int64_t decode = 0;  // rows of sampled tokens
    int64_t sampled = 0;
  };
  /// Asked within forwards that read prompts, from now on; true takes back what the tick has done.
  void stop_when(std::function<bool()> stop) { stop_ = std::move(stop); }
  /// One forward for all live sequences; samples, calls back, retires what is finished. Callbacks may submit, not
  /// cancel().
  Rows tick();
  /// Ends every sequence: at once, or after the tick that brings a kept state up to its text.
  void cancel();

 private:
  struct Sequence;
  Rows gather();
  Tensor due_logits(const Tensor& hidden);  // on the host
  void settle(Sequence& sequence, const Tensor& logits);
  void fork(Sequence& first, const Tensor& logits);
  bool emit(Sequence& sequence, int32_t token, std::span<const float> logits);
  void end(Sequence& sequence, StopReason reason, const Tensor& logits);
  void finish(Sequence& sequence, const Tensor& logits);
  void sweep();
  Tensor forward(bool prompts);
  void prime(Sequence& sequence) const;

  const model::Model& model_;
  model::Runner runner_;
  std::function<bool()> stop_;
  std::vector<uint8_t> sampleable_;  // [V] 0: an id without a token; empty: no tokenizer
  std::vector<std::unique_ptr<Sequence>> live_;
  std::vector<std::unique_ptr<Sequence>> born_;  // join at the next tick
  int64_t sampled_ = 0;                          // in this tick
  // Of the forward under way; kept for their memory.
  std::vector<int32_t> tokens_;    // [N]
  std::vector<State*> states_;     // [B]
  std::vector<int64_t> lengths_;   // [B]
  std::vector<Sequence*> batch_;   // [B]
  std::vector<Sequence*> due_;     // [R] those whose next logits the forward gives
  std::vector<int64_t> due_rows_;  // [R] their rows of its hidden
};

/// One request from start to end. `stop`, asked before every tick, cancels.
void generate(const model::Model& model, const Stream& stream, Request request, const std::function<bool()>& stop = {});

}  // namespace carousel::generate
