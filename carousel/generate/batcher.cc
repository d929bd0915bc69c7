// SPDX-License-Identifier: Apache-2.0
// The batcher: which rows a tick runs, and what happens to a sequence once its logits are there. One thread calls it,
// so nothing here is locked; what has to hold is in what order sequences change.
//
// 1. A sequence is in live_ or in born_, never in both. submit() and fork() append to born_; tick() and cancel() move
//    all of born_ to live_ before anything else; sweep() alone erases, and only sequences that are done. So the
//    pointers in batch_, due_ and states_ are valid from gather() to the end of the tick, and callbacks may submit.
// 2. A live sequence reads its prompt, or has one sampled token pending, or was given logits for its first token.
// 3. A tick takes all its rows or none. A stopped forward puts back every state it was given; history, read and pending
//    change only after a forward that was not stopped.
// 4. With keep_state, history holds the state.pos() tokens that the state has seen, whenever no forward is running.
// 5. A slab of a prompt ends where its sequence's position is a multiple of prefill_rows(), or at the prompt's end.
//    Where ticks are limited, or a mark lies, it may also end at a multiple of kMlstmChunk, where a cut changes no bit.
//    So the rest of the batch decides which tick reads a row, and no result.
// 6. finish() is called once per sequence, and on_finish once per sample, also where samples were not forked yet. A
//    sequence that is ending samples nothing more.
#include "carousel/generate/batcher.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/generate/sequence.h"
#include "carousel/ops/mlstm/mlstm.h"
#include "carousel/ops/rows/rows.h"

namespace carousel::generate {
namespace {

// The most rows one forward takes when several prompts wait: bounds its activations.
constexpr int64_t kTickRows = 2048;  // or a slab, where that is larger

void check_request(const Request& request, int64_t vocab_size) {
  if (request.prompt.empty() && !request.logits.defined()) {
    fail(ErrorKind::kInput, "generate: the prompt is empty, expected at least one token");
  }
  if (request.logits.defined() && request.logits.count() != vocab_size) {
    fail(ErrorKind::kInput, "generate: logits are {}, expected [{}]", request.logits.shape().str(), vocab_size);
  }
  if (static_cast<int64_t>(request.history.size()) != request.state.pos()) {
    fail(ErrorKind::kInput, "generate: {} tokens of history, expected {}, the state's position", request.history.size(),
         request.state.pos());
  }
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= vocab_size) {
      fail(ErrorKind::kInput, "generate: token {} of the prompt is outside the vocabulary of {}", token, vocab_size);
    }
  }
  if (request.keep_hidden && request.prompt.empty()) {
    fail(ErrorKind::kInput, "generate: the prompt is empty, expected a token to give the hidden state of");
  }
  if (request.samples < 1) fail(ErrorKind::kInput, "generate: samples is {}, expected 1 or more", request.samples);
  if (request.max_tokens < -1) {
    fail(ErrorKind::kInput, "generate: max_tokens is {}, expected -1 or more", request.max_tokens);
  }
}

}  // namespace

std::string_view stop_reason_name(StopReason reason) {
  constexpr std::string_view kNames[] = {"end_token", "stop_string", "length", "cancelled", "failed"};
  return kNames[static_cast<size_t>(reason)];
}

Batcher::Batcher(const model::Model& model, const Stream& stream)
    : model_(model), runner_(*model.lm, stream, *model.numerics) {
  if (!model.tokenizer) return;
  sampleable_.resize(static_cast<size_t>(model.lm->vocab_size()));
  for (size_t id = 0; id < sampleable_.size(); ++id) {
    sampleable_[id] = !model.tokenizer->token_text(static_cast<int64_t>(id)).empty();
  }
}

Batcher::~Batcher() = default;

/// Runs the text so far through the decoder, which treats a first token and split characters specially. None of it is
/// text of the answer.
void Batcher::prime(Sequence& sequence) const {
  const Request& request = *sequence.request;
  if (model_.tokenizer) sequence.decoder.emplace(*model_.tokenizer, true);
  if (!sequence.decoder) return;
  for (const auto* tokens : {&request.history, &request.prompt}) sequence.decoder->follow(*tokens);
}

uint64_t Batcher::submit(Request request) {
  check_request(request, model_.lm->vocab_size());
  Sampler sampler(request.sampler, model_.lm->vocab_size(), sampleable_, model_.end_tokens, request.seed,
                  request.stream);
  for (const int32_t token : request.history) sampler.accept(token);
  for (const int32_t token : request.prompt) sampler.accept(token);
  auto shared = std::make_shared<Request>(std::move(request));
  auto sequence = std::make_unique<Sequence>(shared, std::move(sampler));
  sequence->state = std::move(shared->state);
  sequence->logits = shared->logits.to_host();
  shared->logits = Tensor();
  if (shared->keep_state) sequence->history = shared->history;
  sequence->number = ++submitted_;
  prime(*sequence);
  born_.push_back(std::move(sequence));
  return submitted_;
}

std::optional<model::SavedState> Batcher::prefix() const {
  if (live() == 0) return {};
  const Sequence& first = live_.empty() ? *born_.front() : *live_.front();
  if (!first.request->keep_state || !first.reading()) return {};
  return model::SavedState{first.state, first.history, {}};
}

/// How many of a sequence's rows this tick takes, beside those it took of others; 0: none.
int64_t Batcher::slab_of(const Sequence& sequence, const Rows& taken) const {
  const auto left = static_cast<int64_t>(sequence.rest().size());
  if (!sequence.reading()) return left;
  const int64_t pos = sequence.state.pos();
  const int64_t slab = model::prefill_rows(*runner_.stream().memory);
  int64_t whole = std::min(slab - pos % slab, left);
  const std::vector<int64_t>& marks = sequence.request->marks;
  const auto mark = std::upper_bound(marks.begin(), marks.end(), pos);
  if (mark != marks.end()) whole = std::min(whole, *mark - pos);
  if (taken.prompt > 0 && taken.prompt + taken.decode + whole > kTickRows) return 0;
  const int64_t room = prompt_rows_ - taken.prompt;
  if (whole <= room) return whole;
  const int64_t piece = std::min(ops::kMlstmChunk - pos % ops::kMlstmChunk, left);
  if (piece > room) return taken.prompt > 0 ? 0 : piece;
  return (pos + room) / ops::kMlstmChunk * ops::kMlstmChunk - pos;
}

/// Lays out the forward: single tokens first, then slabs of prompts in order of arrival while they fit.
Batcher::Rows Batcher::gather() {
  tokens_.clear();
  states_.clear();
  lengths_.clear();
  batch_.clear();
  due_.clear();
  due_rows_.clear();
  Rows rows;
  for (const bool prompts : {false, true}) {
    for (const auto& sequence : live_) {
      const std::span<const int32_t> rest = sequence->rest();
      if (rest.empty() || sequence->reading() != prompts) continue;
      const int64_t slab = slab_of(*sequence, rows);
      if (slab == 0) continue;
      const auto total = static_cast<int64_t>(tokens_.size());
      tokens_.insert(tokens_.end(), rest.begin(), rest.begin() + slab);
      states_.push_back(&sequence->state);
      lengths_.push_back(slab);
      batch_.push_back(sequence.get());
      (prompts ? rows.prompt : rows.decode) += slab;
      if (slab < static_cast<int64_t>(rest.size())) continue;
      due_.push_back(sequence.get());
      due_rows_.push_back(total + slab - 1);
    }
  }
  return rows;
}

void Batcher::report_mark(const Sequence& sequence) const {
  const Request& request = *sequence.request;
  const bool marked = std::binary_search(request.marks.begin(), request.marks.end(), sequence.state.pos());
  if (marked && request.on_mark) request.on_mark(sequence.state);
}

/// hidden [N, D] -> logits [R, V] of the due rows, on the host.
Tensor Batcher::due_logits(const Tensor& hidden) {
  const auto count = static_cast<int64_t>(due_rows_.size());
  if (count == hidden.dim(0)) return runner_.logits(hidden).to_host();
  Ctx ctx = runner_.pass().ctx();
  return runner_.logits(ops::gather_rows(ctx, hidden, due_rows_)).to_host();
}

/// Returns hidden [N, D] of what is laid out; undefined when stopped, and the states are as they were.
Tensor Batcher::forward(bool prompts) {
  if (!prompts || !stop_) return runner_.forward(tokens_, states_, lengths_);
  std::vector<State> before;
  for (const State* state : states_) before.push_back(*state);
  const model::StopScope scope(runner_, stop_);
  Tensor hidden;
  try {
    hidden = runner_.forward(tokens_, states_, lengths_);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCancelled) throw;
    for (size_t b = 0; b < before.size(); ++b) *states_[b] = std::move(before[b]);
  }
  return hidden;
}

/// Moves every sequence of the forward past the rows that it ran; hidden [N, D] of these, or nothing after a forward
/// that read no prompt.
void Batcher::note_rows(const Tensor& hidden) {
  auto first = tokens_.begin();
  for (size_t b = 0; b < batch_.size(); ++b) {
    Sequence& sequence = *batch_[b];
    const auto end = first + static_cast<std::ptrdiff_t>(lengths_[b]);
    if (sequence.reading() && sequence.request->prompt_logprobs) {
      tell_prompt(sequence, hidden.rows(first - tokens_.begin(), end - tokens_.begin()));
    }
    sequence.logits = Tensor();
    if (sequence.request->keep_state) sequence.history.insert(sequence.history.end(), first, end);
    if (sequence.reading()) {
      sequence.read += static_cast<size_t>(lengths_[b]);
      report_mark(sequence);
    } else {
      sequence.pending.reset();
    }
    first = end;
  }
}

Batcher::Rows Batcher::tick() {
  for (auto& sequence : born_) live_.push_back(std::move(sequence));
  born_.clear();
  sampled_ = 0;
  Rows rows = gather();
  Tensor logits;  // [R, V]
  const auto keeps_hidden = [](const Sequence* sequence) { return sequence->request->keep_hidden; };
  const bool steps = rows.prompt == 0 && std::none_of(due_.begin(), due_.end(), keeps_hidden);
  if (steps && !tokens_.empty()) {  // a token of each, all of them due
    logits = runner_.next_logits(tokens_, states_);
    note_rows({});
  } else if (!tokens_.empty()) {
    const Tensor hidden = forward(rows.prompt > 0);
    if (!hidden.defined()) return {};
    note_rows(hidden);
    if (!due_.empty()) logits = due_logits(hidden);
    keep_hidden(hidden);
  }
  // Those that came with logits have nothing to run before their first token.
  for (size_t i = 0, count = live_.size(); i < count; ++i) {
    Sequence& sequence = *live_[i];
    if (!sequence.logits.defined() || sequence.reading()) continue;
    const Tensor given = sequence.logits;
    sequence.logits = Tensor();
    settle(sequence, given);
  }
  for (size_t r = 0; r < due_.size(); ++r) {
    const auto row = static_cast<int64_t>(r);
    settle(*due_[r], logits.rows(row, row + 1).reshape(Shape{logits.dim(1)}));
  }
  sweep();
  rows.sampled = sampled_;
  return rows;
}

/// Goes on with a sequence once its next logits [V] are computed.
void Batcher::settle(Sequence& sequence, const Tensor& logits) {
  if (sequence.ending) return finish(sequence, logits);
  if (!sequence.forked) {
    sequence.forked = true;
    if (sequence.request->samples > 1) fork(sequence, logits);
  }
  if (sequence.request->max_tokens == 0) return end(sequence, StopReason::kLength, logits);
  const std::span<const float> row(logits.f32(), static_cast<size_t>(logits.count()));
  int32_t token = 0;
  try {
    token = sequence.sampler.sample(row, sequence.state.pos());
  } catch (const Error& error) {
    sequence.error = error.what();
    return end(sequence, StopReason::kFailed, logits);
  }
  ++sampled_;
  ++sequence.sampled;
  const auto& ends = model_.end_tokens;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) return end(sequence, StopReason::kEndToken, logits);
  sequence.sampler.accept(token);
  sequence.pending = token;
  if (emit(sequence, token, row)) end(sequence, sequence.reason, logits);
}

/// Adds the other samples of a request: copies of the state after its prompt, each with a stream of random numbers of
/// its own. They are sampled from the same logits, at once.
void Batcher::fork(Sequence& first, const Tensor& logits) {
  for (int64_t k = 1; k < first.request->samples; ++k) {
    auto copy = std::make_unique<Sequence>(first.request, first.sampler);
    copy->sampler.set_stream(first.request->stream + static_cast<uint64_t>(k));
    copy->number = first.number;
    copy->sample = k;
    copy->state = first.state;
    copy->history = first.history;
    copy->hidden = first.hidden;
    copy->read = first.read;
    copy->forked = true;
    prime(*copy);
    Sequence& sequence = *copy;
    born_.push_back(std::move(copy));
    settle(sequence, logits);
  }
}

/// Reports a token; true if it was the last, and then sequence.reason says why.
bool Batcher::emit(Sequence& sequence, int32_t token, std::span<const float> logits) {
  const Request& request = *sequence.request;
  sequence.text.clear();
  const bool stopped = sequence.decoder && sequence.scanner.feed(sequence.decoder->push(token), sequence.text);
  Emitted emitted{sequence.sample, sequence.sampled - 1, token, sequence.text, 0, {}};
  if (request.logprobs) {
    emitted.logprob = logprob_of(logits, token);
    top_logprobs(logits, request.top_logprobs, sequence.top);
    emitted.top = sequence.top;
  }
  const bool go_on = !request.on_token || request.on_token(emitted);
  if (stopped) {
    sequence.reason = StopReason::kStopString;
  } else if (!go_on) {
    sequence.reason = StopReason::kCancelled;
  } else if (sequence.sampled == request.max_tokens) {
    sequence.reason = StopReason::kLength;
  } else {
    return false;
  }
  return true;
}

/// Ends the sampling. The token that is pending still has to be run into a state that is to be kept.
void Batcher::end(Sequence& sequence, StopReason reason, const Tensor& logits) {
  sequence.reason = reason;
  sequence.ending = true;
  if (!sequence.request->keep_state || !sequence.pending) finish(sequence, logits);
}

void Batcher::finish(Sequence& sequence, const Tensor& logits) {
  sequence.done = true;
  Finished finished;
  finished.sample = sequence.sample;
  finished.reason = sequence.reason;
  finished.error = sequence.error;
  finished.prompt_tokens = static_cast<int64_t>(sequence.request->prompt.size());
  finished.tokens = sequence.sampled;
  sequence.text.clear();
  if (sequence.decoder && sequence.sampled > 0 && sequence.reason != StopReason::kStopString) {
    const bool stopped = sequence.scanner.feed(sequence.decoder->flush(), sequence.text);
    if (!stopped) sequence.scanner.flush(sequence.text);
  }
  finished.text = sequence.text;
  finished.state = std::move(sequence.state);
  if (sequence.request->keep_state) {
    finished.history = std::move(sequence.history);
    if (logits.defined()) finished.logits = logits.clone();
  }
  finished.hidden = std::move(sequence.hidden);
  if (!sequence.request->on_finish) return;
  // Where the prompt was not read to its end, the other samples were never forked: they end with the first one.
  const int64_t unborn = sequence.forked ? 0 : sequence.request->samples - 1;
  for (int64_t k = 1; k <= unborn; ++k) {
    Finished other = finished;
    other.sample = k;
    sequence.request->on_finish(other);
  }
  sequence.request->on_finish(finished);
}

void Batcher::sweep() {
  const auto done = [](const std::unique_ptr<Sequence>& sequence) { return sequence->done; };
  std::erase_if(live_, done);
  std::erase_if(born_, done);
}

void Batcher::cancel_where(const std::function<bool(const Sequence&)>& concerns) {
  for (auto& sequence : born_) live_.push_back(std::move(sequence));
  born_.clear();
  for (size_t i = 0; i < live_.size(); ++i) {
    Sequence& sequence = *live_[i];
    if (!sequence.ending && concerns(sequence)) end(sequence, StopReason::kCancelled, sequence.logits);
  }
  sweep();
}

void Batcher::cancel() {
  cancel_where([](const Sequence&) { return true; });
}

void Batcher::cancel(uint64_t number) {
  cancel_where([&](const Sequence& sequence) { return sequence.number == number; });
}

void Batcher::drop() {
  live_.clear();
  born_.clear();
}

}  // namespace carousel::generate
