// SPDX-License-Identifier: Apache-2.0
// The engine and its cache: where a prompt begins, which states are kept of it, and what is read in idle time.
//
// A state that was decoded is not exact where the model has an mLSTM, so the next turn of a chat could begin no later
// than where the answer did. Its text is therefore read again while nobody waits: in pieces, each of which a request
// stops at once. What was read until then is kept as a state like any other, and the rest is read another time.
#include <algorithm>
#include <chrono>

#include "carousel/core/error.h"
#include "carousel/serve/engine.h"

namespace carousel::serve {
namespace {

constexpr size_t kMostRereads = 64;            // texts that wait; the oldest ones go
constexpr size_t kMostRereadTokens = 1 << 19;  // of one of them

bool begins_with(const std::vector<int32_t>& text, const std::vector<int32_t>& beginning) {
  return beginning.size() <= text.size() && std::equal(beginning.begin(), beginning.end(), text.begin());
}

}  // namespace

/// A prompt that begins a text starts from the longest beginning that the cache has; what it reads is kept.
void Engine::use_cache(Job& job, generate::Request& request) {
  const auto count = static_cast<int64_t>(request.prompt.size());
  const bool after_state = request.state.pos() > 0;
  const bool off = options_.cache_bytes == 0 || job.reuse == Reuse::kOff;
  if (off || after_state || count == 0) {
    job.missed[static_cast<size_t>(after_state ? Miss::kState : Miss::kOff)] = count;
  } else {
    job.prompt = request.prompt;
    // The last token's logits are needed, and with prompt_logprobs those of every token.
    const int64_t most = request.prompt_logprobs ? 0 : count - 1;
    PrefixCache::Found found = cache_.find(job.domain, job.prompt, most, job.reuse == Reuse::kAny);
    request.state = std::move(found.state);
    job.exact = found.exact;
    job.cached = request.state.pos();
    count_misses(job, request.prompt_logprobs);
    request.history.assign(job.prompt.begin(), job.prompt.begin() + job.cached);
    request.prompt.erase(request.prompt.begin(), request.prompt.begin() + job.cached);
    request.marks = cache_.marks(job.domain, job.prompt, job.cached);
    request.on_mark = [this, &job](const State& state) {
      cache_.keep(job.domain, std::span(job.prompt).first(static_cast<size_t>(state.pos())), state, job.exact);
    };
    job.keeps_ends = job.reuse == Reuse::kAny || cuts_anywhere_;
    if (job.keeps_ends) job.ids.resize(static_cast<size_t>(job.samples));
    figures_.cache_queries += count;
    figures_.cache_hits += job.cached;
  }
  for (size_t i = 0; i < job.missed.size(); ++i) figures_.cache_misses[i] += job.missed[i];
}

/// Says of every token of the prompt that is read why it is.
void Engine::count_misses(Job& job, bool logprobs) {
  const auto count = static_cast<int64_t>(job.prompt.size());
  const auto missed = [&](Miss why) -> int64_t& { return job.missed[static_cast<size_t>(why)]; };
  if (logprobs) {
    missed(Miss::kLogprobs) = count;
    return;
  }
  const int64_t end = std::max((count - 1) / PrefixCache::kPiece * PrefixCache::kPiece, job.cached);
  const int64_t known = std::clamp(cache_.known(job.domain, job.prompt), job.cached, end);
  missed(Miss::kNoState) = known - job.cached;
  missed(Miss::kNew) = end - known;
  missed(Miss::kEnd) = count - end;
}

/// A decoded state has not seen the last token, unless the request keeps it.
void Engine::keep_end(const Job& job, const generate::Finished& finished) {
  if (finished.reason == generate::StopReason::kCancelled || finished.reason == generate::StopReason::kFailed) return;
  std::vector<int32_t> tokens = job.prompt;
  const std::vector<int32_t>& ids = job.ids[static_cast<size_t>(finished.sample)];
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  const auto seen = static_cast<size_t>(finished.state.pos());
  if (seen > 0 && seen <= tokens.size()) {
    cache_.keep(job.domain, std::span(tokens).first(seen), finished.state, cuts_anywhere_ && job.exact);
  }
}

void Engine::read_again(std::vector<int32_t> tokens, const std::string& domain, std::optional<Reuse> reuse) {
  const bool exact = reuse.value_or(options_.reuse) == Reuse::kExact && !cuts_anywhere_;
  tokens.resize(tokens.size() / PrefixCache::kPiece * PrefixCache::kPiece);
  if (!exact || options_.cache_bytes == 0 || tokens.empty() || tokens.size() > kMostRereadTokens) return;
  if (layout_.bytes_at(std::ssize(tokens)) > std::min(options_.memory_bytes, options_.cache_bytes)) return;
  {
    const std::lock_guard lock(mutex_);
    offered_.push_back({std::move(tokens), domain});
  }
  news_.notify_one();
}

/// A later turn of a conversation takes the place of an earlier one, which it begins with.
void Engine::queue_rereads(std::vector<Reread> offered) {
  for (Reread& text : offered) {
    const auto first = rereads_.begin() + (rereading_ != 0 ? 1 : 0);  // the one before is being read
    const auto is_older = [&](const Reread& other) {
      return other.domain == text.domain && begins_with(text.tokens, other.tokens);
    };
    rereads_.erase(std::remove_if(first, rereads_.end(), is_older), rereads_.end());
    rereads_.push_back(std::move(text));
    if (rereads_.size() <= kMostRereads) continue;
    rereads_.erase(rereads_.begin() + (rereading_ != 0 ? 1 : 0));
    figures_.reread_dropped++;
  }
}

/// Begins to read the first text that the cache does not have, once nothing has run for a while.
void Engine::start_reread() {
  if (rereading_ != 0 || Clock::now() < busy_ + kQuiet) return;
  while (!rereads_.empty()) {
    const Reread& text = rereads_.front();
    State state = cache_.find(text.domain, text.tokens, std::ssize(text.tokens), false).state;
    const int64_t from = state.pos();
    if (from == std::ssize(text.tokens)) {
      rereads_.pop_front();
      continue;
    }
    generate::Request request;
    request.history.assign(text.tokens.begin(), text.tokens.begin() + from);
    request.prompt.assign(text.tokens.begin() + from, text.tokens.end());
    request.state = std::move(state);
    request.max_tokens = 0;
    request.keep_state = true;  // so that it is there when a request comes between
    request.marks = cache_.marks(text.domain, text.tokens, from);
    request.on_mark = [this](const State& read) {
      const Reread& now = rereads_.front();
      cache_.keep(now.domain, std::span(now.tokens).first(static_cast<size_t>(read.pos())), read, true);
    };
    request.on_finish = [this, from](const generate::Finished& finished) { end_reread(from, finished); };
    try {
      rereading_ = batcher_.submit(std::move(request));
      return;
    } catch (const Error&) {  // a text of ids that the model lacks: the tokenizer may have more
      rereads_.pop_front();
      figures_.reread_dropped++;
    }
  }
}

void Engine::pause_reread() {
  if (rereading_ != 0) batcher_.cancel(rereading_);
}

/// Keeps what was read since `from`.
void Engine::end_reread(int64_t from, const generate::Finished& finished) {
  rereading_ = 0;
  const Reread& text = rereads_.front();
  const int64_t pos = finished.state.pos();
  if (pos > from)
    cache_.keep(text.domain, std::span(text.tokens).first(static_cast<size_t>(pos)), finished.state, true);
  if (finished.reason != generate::StopReason::kCancelled) rereads_.pop_front();
}

/// Whether somebody asks for the engine.
bool Engine::is_wanted() {
  const std::lock_guard lock(mutex_);
  return stopping_ || !submitted_.empty();
}

/// Reads one piece, unless a request comes meanwhile.
void Engine::tick_reread() {
  batcher_.limit_prompts(PrefixCache::kPiece);
  const model::StopScope scope(batcher_, [this] { return is_wanted(); });
  figures_.reread_tokens += batcher_.tick().prompt;
}

}  // namespace carousel::serve
