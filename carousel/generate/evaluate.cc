// SPDX-License-Identifier: Apache-2.0
// Scores of texts and passages: windows and passages in batches, logits a few rows at a time.
#include "carousel/generate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "carousel/core/error.h"
#include "carousel/ops/rows/rows.h"
#include "carousel/ops/tokens/cross_entropy.h"

namespace carousel::generate {
namespace {

// Rows of one forward: enough to keep the matrix products busy, few enough for activations to stay small.
constexpr int64_t kBatchRows = 2048;
// Logits held at once: rows x vocabulary.
constexpr int64_t kLogitElements = int64_t{1} << 23;

int32_t most_likely(const float* logits_n, int64_t vocab) {
  return static_cast<int32_t>(std::max_element(logits_n, logits_n + vocab) - logits_n);
}

// False when the runner was stopped within a forward.
template <class Score>
bool unless_stopped(const Score& score) {
  try {
    score();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCancelled) throw;
    return false;
  }
  return true;
}

// hidden [N, D] against targets [N]: calls visit(n, nll, the most likely token was the target) for every row in order.
// Logits are made a few rows at a time.
template <class Visit>
void compare_targets(model::Runner& runner, const Tensor& hidden, std::span<const int32_t> targets, bool want_greedy,
                     Visit visit) {
  const int64_t vocab = runner.lm().vocab_size();
  const int64_t slice = std::max<int64_t>(1, kLogitElements / vocab);
  const auto rows = static_cast<int64_t>(targets.size());
  Ctx ctx{runner.stream(), runner.arena()};
  for (int64_t begin = 0; begin < rows; begin += slice) {
    const int64_t end = std::min(rows, begin + slice);
    const Tensor logits = runner.logits(hidden.rows(begin, end));  // [end - begin, V]
    const Tensor wanted = runner.arena().empty(Shape{end - begin}, DType::kI32);
    std::copy(targets.begin() + begin, targets.begin() + end, wanted.i32());
    const Tensor nll = ops::cross_entropy(ctx, logits, wanted);  // [end - begin]
    for (int64_t n = begin; n < end; ++n) {
      const float* logits_n = logits.f32() + (n - begin) * vocab;
      const bool hit = want_greedy && most_likely(logits_n, vocab) == targets[static_cast<size_t>(n)];
      visit(n, static_cast<double>(nll.f32()[n - begin]), hit);
    }
  }
}

// Sum over ids[first + 1 .. first + count] given ids[first .. first + count), cut into windows of `window`: several
// short windows side by side.
double score_short_windows(model::Runner& runner, std::span<const int32_t> ids, int64_t window) {
  const auto count = static_cast<int64_t>(ids.size()) - 1;
  std::vector<int64_t> lengths;
  for (int64_t begin = 0; begin < count; begin += window) lengths.push_back(std::min(window, count - begin));
  const Tensor hidden = runner.forward(ids.first(ids.size() - 1), lengths);
  double sum = 0;
  compare_targets(runner, hidden, ids.subspan(1), false, [&](int64_t, double nll, bool) { sum += nll; });
  return sum;
}

// The same for one window longer than a batch: slab by slab, its state carried.
double score_long_window(model::Runner& runner, std::span<const int32_t> ids, const std::function<bool()>& stop,
                         bool& stopped) {
  State state;
  State* const states[] = {&state};
  double sum = 0;
  for (size_t begin = 0; begin + 1 < ids.size();) {
    if (stopped = stop(); stopped) return sum;
    const size_t slab = std::min(static_cast<size_t>(kBatchRows), ids.size() - 1 - begin);
    const int64_t lengths[] = {static_cast<int64_t>(slab)};
    const Tensor hidden = runner.forward(ids.subspan(begin, slab), states, lengths);
    compare_targets(runner, hidden, ids.subspan(begin + 1, slab), false,
                    [&](int64_t, double nll, bool) { sum += nll; });
    begin += slab;
  }
  return sum;
}

// Passages first .. first + count as one batch.
void score_batch(model::Runner& runner, std::span<const Passage> passages, PassageScore& score) {
  std::vector<int32_t> tokens, targets;
  std::vector<int64_t> lengths, asked;  // asked: rows whose next token is a target
  for (const Passage& passage : passages) {
    tokens.insert(tokens.end(), passage.context.begin(), passage.context.end());
    for (size_t i = 0; i < passage.target.size(); ++i) {
      asked.push_back(static_cast<int64_t>(tokens.size()) - 1);
      targets.push_back(passage.target[i]);
      if (i + 1 < passage.target.size()) tokens.push_back(passage.target[i]);
    }
    lengths.push_back(static_cast<int64_t>(passage.context.size() + passage.target.size()) - 1);
  }
  const Tensor hidden = runner.forward(tokens, lengths);  // [N, D]
  Ctx ctx = runner.pass().ctx();
  const Tensor picked = ops::gather_rows(ctx, hidden, asked);
  std::vector<bool> hits;
  compare_targets(runner, picked, targets, true, [&](int64_t, double nll, bool hit) {
    score.nll += nll;
    hits.push_back(hit);
  });
  auto hit = hits.begin();
  for (const Passage& passage : passages) {
    const auto end = hit + static_cast<int64_t>(passage.target.size());
    score.correct += std::all_of(hit, end, [](bool each) { return each; }) ? 1 : 0;
    hit = end;
  }
  score.passages += static_cast<int64_t>(passages.size());
  score.tokens += static_cast<int64_t>(targets.size());
}

}  // namespace

TextScore score_text(model::Runner& runner, std::span<const int32_t> ids, int64_t window,
                     const EvalProgress& progress) {
  if (window < 1) fail(ErrorKind::kShape, "score_text: window is {}, expected at least 1", window);
  const int64_t total = std::max<int64_t>(0, static_cast<int64_t>(ids.size()) - 1);
  const int64_t batch = std::max<int64_t>(1, kBatchRows / window) * window;  // predictions of one forward
  TextScore score;
  const auto more = [&] { return !progress || progress(score.tokens, total); };
  while (score.tokens < total) {
    if (score.complete = more(); !score.complete) return score;
    const int64_t count = std::min(batch, total - score.tokens);
    const std::span<const int32_t> part =
        ids.subspan(static_cast<size_t>(score.tokens), static_cast<size_t>(count) + 1);
    bool stopped = false;
    double nll = 0;
    stopped = !unless_stopped([&] {
      nll = window > kBatchRows ? score_long_window(
                                      runner, part, [&] { return !more(); }, stopped)
                                : score_short_windows(runner, part, window);
    }) || stopped;
    if (score.complete = !stopped; stopped) return score;
    score.nll += nll;
    score.tokens += count;
  }
  if (progress) progress(score.tokens, total);
  return score;
}

PassageScore score_passages(model::Runner& runner, std::span<const Passage> passages, const EvalProgress& progress) {
  const auto total = static_cast<int64_t>(passages.size());
  for (const Passage& passage : passages) {
    if (passage.context.empty() || passage.target.empty())
      fail(ErrorKind::kShape, "score_passages: {} context and {} target tokens, expected at least 1 of each",
           passage.context.size(), passage.target.size());
  }
  PassageScore score;
  while (score.passages < total) {
    if (progress && !progress(score.passages, total)) {
      score.complete = false;
      return score;
    }
    const auto first = static_cast<size_t>(score.passages);
    size_t count = 0;
    int64_t rows = 0;
    while (first + count < passages.size() && (count == 0 || rows < kBatchRows)) {
      rows += static_cast<int64_t>(passages[first + count].context.size() + passages[first + count].target.size());
      ++count;
    }
    score.complete = unless_stopped([&] { score_batch(runner, passages.subspan(first, count), score); });
    if (!score.complete) return score;
  }
  if (progress) progress(score.passages, total);
  return score;
}

void check_likelihood(double nll, const std::string& model) {
  if (std::isfinite(nll)) return;
  fail(ErrorKind::kInput, "{}: the likelihood is {}, expected a finite number: the model's logits overflow", model,
       std::isnan(nll) ? "NaN" : "infinite");
}

}  // namespace carousel::generate
