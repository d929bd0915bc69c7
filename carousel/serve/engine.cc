// SPDX-License-Identifier: Apache-2.0
// The loop of the engine: take what others ask, admit what fits, run a tick, tell its events.
//
// 1. Only the engine thread touches the batcher, the cache, waiting_, running_, rereads_, outbox_ and lost_.
//    submitted_, cancelled_, offered_, stopping_ and numbers_ are read and written under mutex_ alone.
// 2. A job is in exactly one of submitted_, waiting_ and running_ until its last sample has ended; then in none.
// 3. Events of a tick are posted in one piece and in their order, so a listener hears of a token before the next one.
//    The engine waits for listeners only where kMostUntold pieces were posted and not run: a model that is faster than
//    its listeners would fill the memory with what they have not heard.
// 4. admit() alone starts jobs. It reserves the most bytes that a job's states can take, so what runs never takes more
//    than memory_bytes; a job gives its bytes back as its samples end. A job that would not fit alone is never queued.
// 5. A job counts in figures_.waiting from submit() until it is started or ended; submit() refuses by that count.
// 6. A text that is read again is in the batcher alone (rereading_), while nothing waits or runs. It is taken
//    out before a job is admitted, and its forward is stopped as soon as one is submitted. engine_cache.cc has what it
//    does.
#include "carousel/serve/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "carousel/core/error.h"
#include "carousel/ops/kernel.h"
#include "carousel/ops/mlstm/mlstm.h"

namespace carousel::serve {
namespace {

constexpr double kForget = 0.3;     // weight of the last tick in the rate of reading
constexpr int64_t kMostUntold = 8;  // pieces of events

}  // namespace

/// Pieces of events that were posted and have not run.
struct Engine::Untold {
  std::mutex mutex;
  std::condition_variable fewer;
  int64_t pieces = 0;     // guarded by mutex
  bool stopping = false;  // guarded by mutex: nobody runs them any more

  /// Counts one more, once there is room.
  void add() {
    std::unique_lock lock(mutex);
    fewer.wait(lock, [this] { return stopping || pieces < kMostUntold; });
    pieces++;
  }
  void take() {
    const std::lock_guard lock(mutex);
    pieces--;
    fewer.notify_one();
  }
  void stop() {
    const std::lock_guard lock(mutex);
    stopping = true;
    fewer.notify_one();
  }
};

Engine::Engine(const model::Model& model, const Stream& stream, const EngineOptions& options, Post post)
    : layout_(model.state_layout()),
      options_(options),
      cuts_anywhere_(kernel_traits(*stream.memory).rows_keep_bits && cut_anywhere(layout_)),
      post_(std::move(post)),
      batcher_(model, stream),
      cache_(layout_, options.cache_bytes),
      untold_(std::make_shared<Untold>()) {
  thread_ = std::make_unique<Thread>([this] { run(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  news_.notify_one();
  untold_->stop();
  thread_.reset();
}

/// Pages that are full when the prompt has been read are shared by the samples.
void Engine::reserve(Job& job, const generate::Request& request) const {
  const int64_t prompt = request.state.pos() + static_cast<int64_t>(request.prompt.size());
  const int64_t end = prompt + std::max<int64_t>(request.max_tokens, 0);
  const size_t fixed = layout_.fixed_bytes();
  job.shared_bytes = layout_.bytes_at(prompt / kPageRows * kPageRows) - fixed;
  job.own_bytes = layout_.bytes_at(end) - job.shared_bytes;
}

uint64_t Engine::submit(generate::Request request, Listener listener, const std::string& domain,
                        std::optional<Reuse> reuse) {
  auto job = std::make_shared<Job>();
  job->samples = request.samples;
  reserve(*job, request);
  if (job->bytes() > options_.memory_bytes) {
    throw HttpError{507,
                    fmt::format("the states of this request may take {} bytes, expected at most {}: ask for fewer "
                                "tokens or choices, or raise --memory",
                                job->bytes(), options_.memory_bytes),
                    "",
                    "memory_too_small",
                    {{"x-should-retry", "false"}}};
  }
  job->domain = domain;
  job->reuse = reuse.value_or(options_.reuse);
  job->request = std::move(request);
  job->listener = std::move(listener);
  {
    const std::lock_guard lock(mutex_);
    if (figures_.waiting >= options_.queue) {
      throw HttpError{429,
                      fmt::format("the queue of {} requests is full", options_.queue),
                      "",
                      "queue_full",
                      {{"Retry-After", "1"}}};
    }
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

/// Tokens of a prompt that come one after the other are one event.
void Engine::tell_prompt(const std::shared_ptr<Job>& job, const generate::PromptToken& token) {
  if (outbox_.empty() || outbox_.back().first != job || outbox_.back().second.prompt.empty()) tell(job, {});
  outbox_.back().second.prompt.push_back({token.id, token.logprob, {token.top.begin(), token.top.end()}});
}

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
  const auto now = Clock::now();
  for (auto& [job, event] : outbox_) event.at = now;
  auto told = std::make_shared<std::vector<Told>>(std::move(outbox_));
  outbox_.clear();
  untold_->add();
  post_([told, untold = untold_] {
    untold->take();
    for (auto& [job, event] : *told) job->listener(event);
  });
}

void Engine::take_commands() {
  std::vector<std::shared_ptr<Job>> submitted;
  std::vector<uint64_t> cancelled;
  std::vector<Reread> offered;
  {
    std::unique_lock lock(mutex_);
    const auto has_work = [&] {
      return stopping_ || !submitted_.empty() || !cancelled_.empty() || !offered_.empty() || !waiting_.empty() ||
             batcher_.live() > 0;
    };
    if (rereads_.empty()) {
      news_.wait(lock, has_work);
    } else {
      news_.wait_until(lock, busy_ + kQuiet, has_work);
    }
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
    offered.swap(offered_);
  }
  queue_rereads(std::move(offered));
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

/// Starts waiting jobs, in their order, while their samples and states fit beside those that run.
void Engine::admit() {
  while (!waiting_.empty()) {
    const std::shared_ptr<Job> job = waiting_.front();
    int64_t running = 0;
    for (const auto& [number, other] : running_) running += other->samples - other->ended;
    if (running > 0 && running + job->samples > options_.parallel) break;
    if (running > 0 && reserved() + job->bytes() > options_.memory_bytes) break;
    waiting_.pop_front();
    figures_.waiting--;
    start(job);
  }
}

size_t Engine::reserved() const {
  size_t bytes = 0;
  for (const auto& [number, job] : running_) bytes += job->bytes();
  return bytes;
}

/// Gives a request the callbacks that tell the job's listener. They live no longer than the job does in running_.
void Engine::listen(const std::shared_ptr<Job>& job, generate::Request& request) {
  Job* const raw = job.get();
  const auto shared = [this, raw] { return running_.at(raw->number); };
  request.on_prompt = [this, shared](const generate::PromptToken& token) { tell_prompt(shared(), token); };
  request.on_token = [this, raw, shared](const generate::Emitted& token) {
    if (raw->keeps_ends) raw->ids[static_cast<size_t>(token.sample)].push_back(token.id);
    Event event;
    event.sample = token.sample;
    event.text = token.text;
    event.id = token.id;
    event.logprob = token.logprob;
    event.top.assign(token.top.begin(), token.top.end());
    tell(shared(), std::move(event));
    return true;
  };
  request.on_finish = [this, raw, shared, keep = request.keep_state](generate::Finished& finished) {
    if (raw->keeps_ends) keep_end(*raw, finished);
    if (!keep) finished.state = State();
    Event event;
    event.sample = finished.sample;
    event.text = finished.text;
    event.end = std::make_unique<generate::Finished>(std::move(finished));
    event.end->text = {};
    event.cached = raw->cached;
    event.missed = raw->missed;
    tell(shared(), std::move(event));
    if (++raw->ended == raw->samples) running_.erase(raw->number);
  };
}

void Engine::start(const std::shared_ptr<Job>& job) {
  generate::Request request = std::move(job->request);
  use_cache(*job, request);
  listen(job, request);
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
  const auto begin = Clock::now();
  const generate::Batcher::Rows done = batcher_.tick();
  const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  if (done.prompt >= ops::kMlstmChunk && ms > 0) {
    const double rate = static_cast<double>(done.prompt) / ms;
    rows_per_ms_ = rows_per_ms_ == 0 ? rate : rows_per_ms_ + kForget * (rate - rows_per_ms_);
  }
  figures_.prompt_tokens += done.prompt;
  figures_.generated_tokens += done.sampled;
}

/// Ends what runs after a tick that threw: memory ran out, say, and nothing of the batch can go on.
void Engine::fail_all(const char* why) {
  const auto failed = std::move(running_);
  running_.clear();
  for (const auto& [number, job] : failed) tell_end(job, generate::StopReason::kFailed, why, true);
  batcher_.drop();
  if (rereading_ != 0) rereads_.pop_front();
  rereading_ = 0;
}

void Engine::show_figures() {
  figures_.cache_bytes = static_cast<int64_t>(cache_.bytes());
  figures_.cache_states = cache_.states();
  figures_.cache_evictions = cache_.evictions();
  figures_.reserved_bytes = static_cast<int64_t>(reserved());
  figures_.running = rereading_ != 0 ? 0 : static_cast<int64_t>(batcher_.live());
  figures_.reread_waiting = std::ssize(rereads_);
}

void Engine::run() {
  for (;;) {
    take_commands();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    if (!waiting_.empty()) pause_reread();
    admit();
    if (running_.empty()) {
      start_reread();
    } else {
      busy_ = Clock::now();
    }
    if (batcher_.live() > 0) {
      try {
        rereading_ != 0 ? tick_reread() : tick();
        figures_.ticks++;
      } catch (const std::exception& error) {
        fail_all(error.what());
        const auto* const known = dynamic_cast<const Error*>(&error);
        const bool lost = known != nullptr && known->kind() == ErrorKind::kLost;
        if (lost && !std::exchange(lost_, true) && options_.on_lost) options_.on_lost(error.what());
      }
    }
    show_figures();
    flush();
  }
}

}  // namespace carousel::serve
