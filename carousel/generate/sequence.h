// SPDX-License-Identifier: Apache-2.0
// One sequence of a batcher: where it is in its prompt, its state, and how its next token is chosen. The batcher's own;
// what holds between its fields is numbered in batcher.cc.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "carousel/generate/batcher.h"
#include "carousel/generate/stop.h"
#include "carousel/text/tokenizer.h"

namespace carousel::generate {

struct Batcher::Sequence {
  Sequence(std::shared_ptr<const Request> r, Sampler s)
      : request(std::move(r)), sampler(std::move(s)), scanner(request->stop) {}

  std::span<const int32_t> rest() const {  // not yet run: what is left of the prompt, or the sampled token
    if (read < request->prompt.size()) return std::span(request->prompt).subspan(read);
    return pending ? std::span(&*pending, 1) : std::span<const int32_t>();
  }
  bool reading() const { return read < request->prompt.size(); }

  std::shared_ptr<const Request> request;  // shared with its other samples; its state and logits were moved out
  uint64_t number = 0;                     // of the request
  int64_t sample = 0;                      // which of the request's samples
  State state;                             // the memory of all tokens run
  std::vector<int32_t> history;            // [state.pos()] with keep_state
  Tensor logits;                           // [V] given with the request, for its first token
  std::vector<float> hidden;               // [D] with keep_hidden: of the last token run
  size_t read = 0;                         // tokens of the prompt run
  std::optional<int32_t> pending;          // the sampled token that has not been run
  int64_t sampled = 0;                     // tokens sampled so far
  bool forked = false;                     // its request's other samples exist
  bool ending = false;                     // nothing more is sampled; `pending` may still have to be run into the state
  bool done = false;                       // finish() was called
  StopReason reason = StopReason::kLength;     // why it is ending
  std::string error;                           // with kFailed: what was wrong
  Sampler sampler;                             // has accepted the history, the prompt and the sampled tokens
  std::optional<text::StreamDecoder> decoder;  // empty without a tokenizer
  StopScanner scanner;                         // holds back text that may begin a stop string
  std::string text;                            // the text of the last token
  std::vector<TokenLogprob> top;               // the likeliest tokens in place of the last one
};

}  // namespace carousel::generate
