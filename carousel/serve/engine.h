// SPDX-License-Identifier: Apache-2.0
// The one thread that owns the batcher. Other threads hand it requests and are told what comes of them, on a thread of
// their choice; nothing else of a model is shared. The invariants are numbered in engine.cc.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "carousel/core/thread.h"
#include "carousel/generate/batcher.h"
#include "carousel/serve/call.h"
#include "carousel/serve/prefix_cache.h"

namespace carousel::serve {

/// A token with its logprob, as answers tell it.
struct LoggedToken {
  int32_t id = 0;
  std::optional<float> logprob;  // none: the first token of a text, which follows nothing
  std::vector<generate::TokenLogprob> top;
};

/// Why tokens of a prompt were read, and not found in the cache.
enum class Miss {
  kNew,       // no prompt began so before
  kNoState,   // one did, and no state is kept there (any more)
  kEnd,       // after the last multiple of 64, or the last token
  kLogprobs,  // their logprobs were asked for
  kState,     // they follow a state with an id
  kOff        // there is no cache
};
constexpr const char* kMissNames[] = {"new", "no_state", "end", "logprobs", "state", "off"};
using Misses = std::array<int64_t, std::size(kMissNames)>;  // tokens, by Miss

/// What a listener is told: tokens of the prompt, a token of a sample, or the sample's end.
struct Event {
  std::chrono::steady_clock::time_point at;  // when the engine told it
  int64_t sample = 0;
  std::string text;                         // whole characters that are due; may be empty
  int32_t id = 0;                           // of a token
  float logprob = 0;                        // with Request::logprobs
  std::vector<generate::TokenLogprob> top;  // with Request::top_logprobs
  std::vector<LoggedToken> prompt;          // with Request::prompt_logprobs; not empty: these and nothing else
  int64_t cached = 0;                       // with `end`: tokens of the prompt that the cache had read
  Misses missed = {};                       // with `end`: those that it had not
  bool broken = false;                      // with `end` and kFailed: not the request's fault
  std::unique_ptr<generate::Finished> end;  // the sample's end; its text is above. Null: a token
};
using Listener = std::function<void(Event&)>;

/// Which states of the prefix cache a request may begin with, where it names none.
enum class Reuse {
  kOff,    // none, and none of its own are kept
  kExact,  // those from which it reads on with the bits of reading from the start
  kAny     // all, also those that were decoded: its logits are within 2e-5 of those
};
constexpr const char* kReuseNames[] = {"off", "exact", "any"};

struct EngineOptions {
  int64_t parallel = 64;           // sequences at a time
  int64_t queue = 256;             // requests that wait for them
  size_t memory_bytes = SIZE_MAX;  // that states of running sequences may take
  size_t cache_bytes = 0;          // of the prefix cache
  Reuse reuse = Reuse::kExact;     // of requests that do not say
  double tick_ms = 100;            // the time of a tick that reads prompts
  /// Called once, by the engine's thread, when the device has failed and what ran on it has ended.
  std::function<void(const std::string& why)> on_lost;
};

/// Figures since the start, which any thread may read.
struct EngineFigures {
  std::atomic<int64_t> running{0};           // sequences
  std::atomic<int64_t> waiting{0};           // requests
  std::atomic<int64_t> reserved_bytes{0};    // for the states of running sequences
  std::atomic<int64_t> prompt_tokens{0};     // rows of prompts read
  std::atomic<int64_t> generated_tokens{0};  // tokens sampled
  std::atomic<int64_t> ticks{0};
  std::atomic<int64_t> cache_queries{0};  // tokens of prompts that the cache was asked for
  std::atomic<int64_t> cache_hits{0};     // tokens of those that it had read
  std::array<std::atomic<int64_t>, std::size(kMissNames)> cache_misses{};  // tokens of prompts that were read, by Miss
  std::atomic<int64_t> cache_bytes{0};                                     // that it takes
  std::atomic<int64_t> cache_states{0};
  std::atomic<int64_t> cache_evictions{0};
  std::atomic<int64_t> reread_tokens{0};   // rows read in idle time
  std::atomic<int64_t> reread_waiting{0};  // texts to be read then
  std::atomic<int64_t> reread_dropped{0};  // texts that newer ones took the place of
};

class Engine {
 public:
  /// `post` runs a function on the listeners' thread, later; it must be callable from any thread. `model` and the
  /// stream's memory must outlive the engine.
  using Post = std::function<void(std::function<void()>)>;
  Engine(const model::Model& model, const Stream& stream, const EngineOptions& options, Post post);
  /// Cancels everything and waits for the thread; listeners are told nothing more.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Queues a request, whose callbacks the engine sets, and gives its number. The listener is told of every token and
  /// of the end of each sample. A request that cannot run ends with kFailed. Throws HttpError: the queue is full (429),
  /// or the request's states would never fit in the memory for them (507).
  /// `domain`: requests of other domains do not see what the cache keeps of this one. `reuse`: the options' without
  /// one.
  uint64_t submit(generate::Request request, Listener listener, const std::string& domain = "",
                  std::optional<Reuse> reuse = {});
  /// Ends a request, waiting or running. Samples that had not ended are told of kCancelled.
  void cancel(uint64_t number);
  /// Has a text read while no request waits or runs, so that the cache has it when a prompt begins so: an answer that
  /// was decoded, say. `domain`, `reuse`: as those of the prompts. Nothing where the cache has use for decoded states.
  void read_again(std::vector<int32_t> tokens, const std::string& domain, std::optional<Reuse> reuse = {});

  const EngineFigures& figures() const { return figures_; }

 private:
  struct Job {
    uint64_t number = 0;
    uint64_t batched = 0;  // its number in the batcher
    generate::Request request;
    Listener listener;
    std::string domain;
    Reuse reuse = Reuse::kExact;
    int64_t samples = 1, ended = 0;
    size_t shared_bytes = 0, own_bytes = 0;  // that its samples take together, and each of them
    size_t bytes() const {
      const auto running = static_cast<size_t>(samples - ended);
      return running == 0 ? 0 : shared_bytes + running * own_bytes;
    }
    int64_t cached = 0;                     // tokens of its prompt that the cache had read
    Misses missed = {};                     // those that it had not
    std::vector<int32_t> prompt;            // the whole prompt, where the cache keeps states of it
    bool exact = true;                      // the state that it began with was
    bool keeps_ends = false;                // the cache keeps the states of its answers' ends
    std::vector<std::vector<int32_t>> ids;  // [samples] their tokens, with keeps_ends
  };
  using Clock = std::chrono::steady_clock;
  static constexpr auto kQuiet = std::chrono::milliseconds(50);  // without a request, before texts are read again
  struct Untold;
  using Told = std::pair<std::shared_ptr<Job>, Event>;
  /// A text to be read in idle time: whole pieces.
  struct Reread {
    std::vector<int32_t> tokens;
    std::string domain;
  };
  void run();
  void take_commands();
  void admit();
  void reserve(Job& job, const generate::Request& request) const;
  size_t reserved() const;
  void start(const std::shared_ptr<Job>& job);
  void use_cache(Job& job, generate::Request& request);
  void count_misses(Job& job, bool logprobs);
  void keep_end(const Job& job, const generate::Finished& finished);
  void queue_rereads(std::vector<Reread> offered);
  void start_reread();
  void pause_reread();
  void end_reread(int64_t from, const generate::Finished& finished);
  bool is_wanted();
  void listen(const std::shared_ptr<Job>& job, generate::Request& request);
  void tell(const std::shared_ptr<Job>& job, Event event);
  void tell_prompt(const std::shared_ptr<Job>& job, const generate::PromptToken& token);
  void tell_end(const std::shared_ptr<Job>& job, generate::StopReason reason, const std::string& error,
                bool broken = false);
  void flush();
  void tick();
  void tick_reread();
  void fail_all(const char* why);
  void show_figures();

  const StateLayout& layout_;
  const EngineOptions options_;
  const bool cuts_anywhere_;  // every state is exact, wherever it was cut
  const Post post_;
  EngineFigures figures_;

  std::mutex mutex_;
  std::condition_variable news_;
  std::vector<std::shared_ptr<Job>> submitted_;  // guarded by mutex_
  std::vector<uint64_t> cancelled_;              // guarded by mutex_
  std::vector<Reread> offered_;                  // guarded by mutex_
  bool stopping_ = false;                        // guarded by mutex_
  uint64_t numbers_ = 0;                         // guarded by mutex_

  // The engine thread's own.
  generate::Batcher batcher_;
  PrefixCache cache_;
  std::deque<std::shared_ptr<Job>> waiting_;
  std::map<uint64_t, std::shared_ptr<Job>> running_;
  std::vector<Told> outbox_;
  const std::shared_ptr<Untold> untold_;  // shared with what was posted, which may outlive the engine
  double rows_per_ms_ = 0;                // of prompts, in the last ticks; 0: not known
  std::deque<Reread> rereads_;            // to be read in idle time
  uint64_t rereading_ = 0;                // the number of the first one in the batcher; 0: it is not there
  Clock::time_point busy_ = {};           // when a request last waited or ran
  bool lost_ = false;                     // whether the device has failed

  std::unique_ptr<Thread> thread_;  // last: it uses all of the above
};

}  // namespace carousel::serve
