// SPDX-License-Identifier: Apache-2.0
// The loop of the engine: take what others ask, admit what fits, run a tick, tell its events.
//
// 1. Only the engine thread touches the batcher, waiting_, running_ and outbox_. submitted_, cancelled_, stopping_ and
//    numbers_ are read and written under mutex_ alone.
// 2. A job is in exactly one of submitted_, waiting_ and running_ until its last sample has ended; then in none.
// 3. Events of a tick are posted in one piece and in their order, so a listener hears of a token before the next one.
//    The engine never waits for a listener.
// 4. A job counts in figures_.waiting from submit() until it is started or ended; submit() refuses by that count.
#include "carousel/serve/engine.h"

#include <algorithm>
#include <chrono>

#include "carousel/core/error.h"
#include "carousel/ops/mlstm/mlstm.h"

namespace carousel::serve {
namespace {

constexpr double kForget = 0.3;  // weight of the last tick in the rate of reading

}  // namespace

struct Engine::Job {
  uint64_t number = 0;
  uint64_t batched = 0;  // its number in the batcher
  generate::Request request;
  Listener listener;
  std::string domain;
  int64_t samples = 1, ended = 0;
  int64_t cached = 0;           // tokens of its prompt that the cache had read
  std::vector<int32_t> prompt;  // the whole prompt, where the cache keeps states of it
};

Engine::Engine(const model::Model& model, const Stream& stream, const EngineOptions& options, Post post)
    : options_(options),
      post_(std::move(post)),
      batcher_(model, stream),
      cache_(model.state_layout(), options.cache_bytes) {
  thread_ = std::make_unique<Thread>([this] { run(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  news_.notify_one();
  thread_.reset();
}

uint64_t Engine::submit(generate::Request request, Listener listener, const std::string& domain) {
  auto job = std::make_shared<Job>();
  job->samples = request.samples;
  job->domain = domain;
  job->request = std::move(request);
  job->listener = std::move(listener);
  {
    const std::lock_guard lock(mutex_);
    if (figures_.waiting >= options_.queue) return 0;
    job->number = ++numbers_;
    figures_.waiting++;
    submitted_.push_back(job);
  }
  news_.notify_one();
  return job->number;
}

void Engine::cancel(uint64_t number) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(number);
  }
  news_.notify_one();
}

void Engine::tell(const std::shared_ptr<Job>& job, Event event) { outbox_.emplace_back(job, std::move(event)); }

/// Ends a job that the batcher does not have.
void Engine::tell_end(const std::shared_ptr<Job>& job, generate::StopReason reason, const std::string& error,
                      bool broken) {
  for (; job->ended < job->samples; ++job->ended) {
    Event event;
    event.sample = job->ended;
    event.end = std::make_unique<generate::Finished>();
    event.end->sample = job->ended;
    event.end->reason = reason;
    event.end->error = error;
    event.broken = broken;
    tell(job, std::move(event));
  }
}

void Engine::flush() {
  if (outbox_.empty()) return;
  auto told = std::make_shared<std::vector<Told>>(std::move(outbox_));
  outbox_.clear();
  post_([told] {
    for (auto& [job, event] : *told) job->listener(event);
  });
}

void Engine::take_commands() {
  std::vector<std::shared_ptr<Job>> submitted;
  std::vector<uint64_t> cancelled;
  {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [&] {
      return stopping_ || !submitted_.empty() || !cancelled_.empty() || !waiting_.empty() || batcher_.live() > 0;
    });
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
  }
  waiting_.insert(waiting_.end(), submitted.begin(), submitted.end());
  for (const uint64_t number : cancelled) {
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const std::shared_ptr<Job>& job) { return job->number == number; });
    if (waits != waiting_.end()) {
      tell_end(*waits, generate::StopReason::kCancelled, "");
      waiting_.erase(waits);
      figures_.waiting--;
    } else if (const auto runs = running_.find(number); runs != running_.end()) {
      batcher_.cancel(runs->second->batched);
    }
  }
}

/// Starts waiting jobs, in their order, while their samples fit beside those that run.
void Engine::admit() {
  while (!waiting_.empty()) {
    const std::shared_ptr<Job> job = waiting_.front();
    int64_t running = 0;
    for (const auto& [number, other] : running_) running += other->samples - other->ended;
    if (running > 0 && running + job->samples > options_.parallel) break;
    waiting_.pop_front();
    figures_.waiting--;
    start(job);
  }
}

/// A prompt that begins a text starts from the longest beginning that the cache has; what it reads is kept.
void Engine::use_cache(Job& job, generate::Request& request) {
  if (options_.cache_bytes == 0 || request.state.pos() > 0 || request.prompt.empty()) return;
  job.prompt = request.prompt;
  const auto count = static_cast<int64_t>(job.prompt.size());
  request.state = cache_.find(job.domain, job.prompt, count - 1);  // the last token's logits are needed
  job.cached = request.state.pos();
  request.history.assign(job.prompt.begin(), job.prompt.begin() + job.cached);
  request.prompt.erase(request.prompt.begin(), request.prompt.begin() + job.cached);
  request.marks = cache_.marks(job.domain, job.prompt, job.cached);
  request.on_mark = [this, &job](const State& state) {
    cache_.keep(job.domain, std::span(job.prompt).first(static_cast<size_t>(state.pos())), state);
  };
  figures_.cache_queries += count;
  figures_.cache_hits += job.cached;
}

void Engine::start(const std::shared_ptr<Job>& job) {
  generate::Request request = std::move(job->request);
  use_cache(*job, request);
  Job* const raw = job.get();  // the batcher's callbacks live no longer than the job does in running_
  const auto shared = [this, raw] { return running_.at(raw->number); };
  request.on_token = [this, shared](const generate::Emitted& token) {
    Event event;
    event.sample = token.sample;
    event.text = token.text;
    event.id = token.id;
    event.logprob = token.logprob;
    event.top.assign(token.top.begin(), token.top.end());
    tell(shared(), std::move(event));
    return true;
  };
  request.on_finish = [this, raw, shared](generate::Finished& finished) {
    Event event;
    event.sample = finished.sample;
    event.text = finished.text;
    event.end = std::make_unique<generate::Finished>(std::move(finished));
    event.end->text = {};
    event.cached = raw->cached;
    tell(shared(), std::move(event));
    if (++raw->ended == raw->samples) running_.erase(raw->number);
  };
  running_[job->number] = job;
  try {
    job->batched = batcher_.submit(std::move(request));
  } catch (const Error& error) {
    running_.erase(job->number);
    tell_end(job, generate::StopReason::kFailed, error.what());
  }
}

/// One forward. Ticks that read prompts take as many rows as their time allows at the rate of the last ones.
void Engine::tick() {
  const auto piece = static_cast<double>(ops::kMlstmChunk);
  const double rows = std::max(piece, rows_per_ms_ * options_.tick_ms);
  batcher_.limit_prompts(static_cast<int64_t>(rows / piece) * ops::kMlstmChunk);
  const auto begin = std::chrono::steady_clock::now();
  const generate::Batcher::Rows done = batcher_.tick();
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  if (done.prompt >= ops::kMlstmChunk && ms > 0) {
    const double rate = static_cast<double>(done.prompt) / ms;
    rows_per_ms_ = rows_per_ms_ == 0 ? rate : rows_per_ms_ + kForget * (rate - rows_per_ms_);
  }
  figures_.prompt_tokens += done.prompt;
  figures_.generated_tokens += done.sampled;
  figures_.ticks++;
}

void Engine::run() {
  for (;;) {
    take_commands();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    admit();
    if (batcher_.live() > 0) {
      try {
        tick();
      } catch (const std::exception& error) {  // out of memory, say: nothing of this batch can go on
        const auto failed = std::move(running_);
        running_.clear();
        for (const auto& [number, job] : failed) tell_end(job, generate::StopReason::kFailed, error.what(), true);
        batcher_.drop();
      }
    }
    figures_.cache_bytes = static_cast<int64_t>(cache_.bytes());
    figures_.cache_states = cache_.states();
    figures_.cache_evictions = cache_.evictions();
    figures_.running = static_cast<int64_t>(batcher_.live());
    flush();
  }
}

}  // namespace carousel::serve
