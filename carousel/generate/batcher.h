// SPDX-License-Identifier: Apache-2.0
// Continuous batching over States: every tick is one forward of all live sequences, slabs of prompts and single tokens
// mixed, then a sampled token for each that is due one. What else is in the batch changes no bit of a sequence.
// generate() for one prompt is a batcher of one. The invariants are numbered in batcher.cc.
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
  float logprob = 0;                  // the token's in the model's own distribution, before the sampler's chain
  std::span<const TokenLogprob> top;  // the likeliest tokens, as many as asked for
};

/// One token of the prompt, valid during the callback.
struct PromptToken {
  int64_t index = 0;  // its place in the prompt
  int32_t id = 0;
  float logprob = 0;                  // the token's after all that comes before it
  std::span<const TokenLogprob> top;  // the likeliest tokens in its place, as many as asked for
};

enum class StopReason { kEndToken, kStopString, kLength, kCancelled, kFailed };
std::string_view stop_reason_name(StopReason reason);  // "end_token", "stop_string", "length", "cancelled", "failed"

struct Finished {
  int64_t sample = 0;
  StopReason reason = StopReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t tokens = 0;     // sampled, end token included
  std::string_view text;  // held back so far and due now
  std::string error;      // with kFailed: what was wrong
  // The tokens seen are those of the text and, after kStopString, of the stop string. A sequence cancelled within its
  // prompt has seen the prompt so far, and its logits are empty. history and logits are set with keep_state; without it
  // the state has not seen the last token that was sampled.
  State state;                   // the memory of the tokens seen
  std::vector<int32_t> history;  // [state.pos()] the tokens seen
  Tensor logits;                 // [V] after the last of them
  std::vector<float> hidden;     // [D] with keep_hidden: the last token's, final norm applied
};

struct Request {
  std::vector<int32_t> prompt;                // follows what `state` has seen
  State state;                                // empty: from the start
  std::vector<int32_t> history;               // [state.pos()] the tokens it has seen; penalties count them
  Tensor logits;                              // [V] after the last of them: required when there is no prompt
  SamplerParams sampler;                      // how tokens are chosen
  uint64_t seed = 0;                          // seed of the random numbers
  uint64_t stream = 0;                        // sample k draws from stream + k
  int64_t samples = 1;                        // continuations of the one prompt, forked when it has been read
  int64_t max_tokens = -1;                    // tokens of each sample; -1: no limit
  std::vector<std::string> stop;              // a text that ends a sample, and is not emitted
  bool logprobs = false;                      // fill Emitted::logprob and top
  int64_t top_logprobs = 0;                   // how many of the likeliest tokens to report
  bool prompt_logprobs = false;               // call on_prompt
  bool keep_state = false;                    // fill Finished::state, history and logits
  bool keep_hidden = false;                   // fill Finished::hidden
  std::vector<int64_t> marks;                 // ascending positions, multiples of ops::kMlstmChunk, to report states at
  std::function<void(const State&)> on_mark;  // called with the state there, while the prompt is read
  // Called with prompt_logprobs, before the first sampled token: for each token of the prompt that has logits before
  // it. The first one has them where they were given.
  std::function<void(const PromptToken&)> on_prompt;
  std::function<bool(const Emitted&)> on_token;  // called for each token; false cancels this sample
  std::function<void(Finished&)> on_finish;      // called once per sample
};

class Batcher {
 public:
  /// Both must outlive the batcher. Not for use by two threads at once.
  Batcher(const model::Model& model, const Stream& stream);
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  /// Queues a request, and returns its number. Throws Error(kInput): neither prompt nor logits, a token outside the
  /// vocabulary, sampler values out of range.
  uint64_t submit(Request request);
  size_t live() const { return live_.size() + born_.size(); }  // sequences not finished
  /// What the first sequence has read so far, while it reads its prompt and if it keeps a state. Call it between ticks.
  std::optional<model::SavedState> prefix() const;

  struct Rows {
    int64_t prompt = 0;   // rows of prompts
    int64_t decode = 0;   // rows of sampled tokens
    int64_t sampled = 0;  // tokens sampled
  };
  /// From now on a tick reads at most so many rows of prompts, but one piece of ops::kMlstmChunk rows at least. Prompts
  /// are then cut at multiples of it, which changes no bit.
  void limit_prompts(int64_t rows) { prompt_rows_ = rows; }
  /// From now on `stop` is asked within forwards that read prompts; true takes back what the tick has done.
  void stop_when(std::function<bool()> stop) { stop_ = std::move(stop); }
  /// One forward for all live sequences; samples, calls back, retires what is finished. Callbacks may submit, not
  /// cancel().
  Rows tick();
  /// Ends every sequence: at once, or after the tick that brings a kept state up to its text.
  void cancel();
  /// The same for the sequences of one request; nothing where it has ended.
  void cancel(uint64_t number);
  /// Forgets every sequence, and tells nobody: what remains after a tick that threw.
  void drop();

 private:
  struct Sequence;
  Rows gather();
  int64_t slab_of(const Sequence& sequence, const Rows& taken) const;
  void tell_prompt(const Sequence& sequence, const Tensor& hidden);
  void keep_hidden(const Tensor& hidden);
  void report_mark(const Sequence& sequence) const;
  void cancel_where(const std::function<bool(const Sequence&)>& concerns);
  Tensor due_logits(const Tensor& hidden);  // on the host
  void settle(Sequence& sequence, const Tensor& logits);
  void fork(Sequence& first, const Tensor& logits);
  bool emit(Sequence& sequence, int32_t token, std::span<const float> logits);
  void end(Sequence& sequence, StopReason reason, const Tensor& logits);
  void finish(Sequence& sequence, const Tensor& logits);
  void sweep();
  Tensor forward(bool prompts);
  void note_rows(const Tensor& hidden);
  void prime(Sequence& sequence) const;

  const model::Model& model_;
  model::Runner runner_;
  std::function<bool()> stop_;
  std::vector<uint8_t> sampleable_;  // [V] 0: an id without a token; empty: no tokenizer
  std::vector<std::unique_ptr<Sequence>> live_;
  std::vector<std::unique_ptr<Sequence>> born_;  // join at the next tick
  int64_t sampled_ = 0;                          // tokens sampled in this tick
  uint64_t submitted_ = 0;                       // requests so far
  int64_t prompt_rows_ = INT64_MAX;              // rows of prompts that a tick may take
  // The forward under way, filled anew by gather(). They are members so that ticks reuse their memory.
  std::vector<int32_t> tokens_;    // [N] of all sequences, laid end to end
  std::vector<State*> states_;     // [B] their states
  std::vector<int64_t> lengths_;   // [B] their rows
  std::vector<Sequence*> batch_;   // [B] the sequences
  std::vector<Sequence*> due_;     // [R] the sequences whose next logits the forward gives
  std::vector<int64_t> due_rows_;  // [R] the row of hidden that gives them
};

/// One request from start to end. `stop`, asked before every tick, cancels.
void generate(const model::Model& model, const Stream& stream, Request request, const std::function<bool()>& stop = {});

}  // namespace carousel::generate
