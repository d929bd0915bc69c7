// SPDX-License-Identifier: Apache-2.0
// Computes each expected tensor of a language model's case in every way the engine knows and compares it: sequences cut
// in any way, together and alone, greedy decoding, loss and likelihood.
#include "carousel/verify/language_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <span>

#include "carousel/core/error.h"
#include "carousel/formats/safetensors.h"
#include "carousel/generate/evaluate.h"
#include "carousel/model/load.h"
#include "carousel/ops/kernel.h"
#include "carousel/verify/adapter_case.h"
#include "carousel/verify/drift.h"
#include "carousel/verify/package_state.h"
#include "carousel/verify/sequence_cuts.h"
#include "carousel/verify/training_case.h"

namespace carousel::verify {
namespace {

constexpr const char* kMeanPrefix = "valid.mean_nll_";
using Status = Comparison::Status;
using Ids = std::vector<std::vector<int32_t>>;  // [B][T]
struct Computed {
  std::vector<float> logits;  // [B, T, V], or empty where none are expected
  std::vector<State> states;  // [B]
};

// The names of logits: the reference's step-by-step form is another way to the same numbers.
std::vector<std::string> logits_names(const std::string& suffix) {
  return suffix.empty() ? std::vector<std::string>{"logits", "logits.step", "merged.logits"}
                        : std::vector<std::string>{"logits" + suffix};
}

class Case {
 public:
  Case(const std::string& folder, const Setup& setup, const TokensDone& progress)
      : folder_(folder),
        where_(folder + "/expected.safetensors"),
        expected_(formats::SafetensorsFile::open(where_)),
        setup_(setup),
        model_(load_case(folder, setup)),
        tolerance_(setup.tolerance(model_.config)),
        runner_(*model_.lm, setup.stream, *model_.numerics),
        progress_(progress) {}

  std::vector<Comparison> compare();

 private:
  const formats::TensorEntry& entry(const std::string& name) const;
  Ids read_ids(const std::string& name) const;
  std::vector<float> read_floats(const std::string& name, int64_t count) const;
  Comparison& result(const std::string& name);

  Computed compute(const Ids& ids, const Plan& plan, bool want_logits);
  Computed compute_alone(const Ids& ids, const Plan& plan, bool want_logits);
  std::vector<float> next_logits(std::span<const int32_t> tokens, State& state);
  bool same_bits(const Computed& a, const Computed& b) const;
  void compare_forward(const std::string& input, const std::string& suffix);
  void compare_computed(const Computed& computed, const std::string& suffix, const std::string& way);
  void compare_state(const Computed& computed, const std::string& name, const std::vector<std::string>& ours,
                     const std::string& way);
  bool as_likely(const std::vector<float>& logits, int32_t token, float best) const;
  void compare_greedy(const std::string& name, const Ids& prompts);
  void compare_loss();
  void compare_trained();
  void compare_mean(const std::string& name);

  std::string folder_, where_;
  formats::SafetensorsFile expected_;
  const Setup& setup_;
  model::Model model_;
  double tolerance_;
  model::Runner runner_;
  const TokensDone& progress_;
  std::map<std::string, Comparison> results_;
};

const formats::TensorEntry& Case::entry(const std::string& name) const {
  const formats::TensorEntry* found = expected_.find(name);
  if (found == nullptr) fail(ErrorKind::kInput, "{}: \"{}\" is missing", where_, name);
  return *found;
}

// The tensor `name`: [B, T] or [n] integers, each a token of the model.
Ids Case::read_ids(const std::string& name) const {
  const formats::TensorEntry& source = entry(name);
  const bool integers = source.dtype == DType::kI64 || source.dtype == DType::kI32;
  const int rank = source.shape.rank();
  if (!integers || rank < 1 || rank > 2 || source.shape.count() == 0) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected I64 or I32 [B, T]", where_, name, dtype_name(source.dtype),
         source.shape.str());
  }
  const Tensor values = source.load();
  Ids ids(static_cast<size_t>(rank == 2 ? source.shape[0] : 1));
  const int64_t length = source.shape[-1];
  for (int64_t i = 0; i < values.count(); ++i) {
    const int64_t id = source.dtype == DType::kI64 ? values.i64()[i] : values.i32()[i];
    if (id < 0 || id >= model_.config.vocab_size) {
      fail(ErrorKind::kInput, "{}: \"{}\" holds {}, expected 0 to {} (vocab_size)", where_, name, id,
           model_.config.vocab_size - 1);
    }
    ids[static_cast<size_t>(i / length)].push_back(static_cast<int32_t>(id));
  }
  return ids;
}

std::vector<float> Case::read_floats(const std::string& name, int64_t count) const {
  const formats::TensorEntry& source = entry(name);
  if (!is_float(source.dtype) || source.shape.count() != count) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected {} floating-point numbers", where_, name,
         dtype_name(source.dtype), source.shape.str(), count);
  }
  const Tensor values = source.load().to_f32();
  return std::vector<float>(values.f32(), values.f32() + count);
}

Comparison& Case::result(const std::string& name) {
  Comparison& comparison = results_[name];
  comparison.name = name;
  return comparison;
}

Computed Case::compute(const Ids& ids, const Plan& plan, bool want_logits) {
  const auto length = static_cast<int64_t>(ids.front().size());
  const auto vocab = static_cast<size_t>(model_.config.vocab_size);
  Computed out;
  out.states.resize(ids.size());
  if (want_logits) out.logits.resize(ids.size() * ids.front().size() * vocab);
  std::vector<State*> states;
  for (State& state : out.states) states.push_back(&state);
  for (const std::vector<int64_t>& lengths : plan) {
    std::vector<int32_t> tokens;
    std::vector<size_t> rows;  // the row of out.logits for every row of this step
    for (size_t s = 0; s < ids.size(); ++s) {
      const int64_t pos = states[s]->pos();
      for (int64_t t = pos; t < pos + lengths[s]; ++t) {
        tokens.push_back(ids[s][static_cast<size_t>(t)]);
        rows.push_back(s * static_cast<size_t>(length) + static_cast<size_t>(t));
      }
    }
    const Tensor hidden = runner_.forward(tokens, states, lengths);  // [N, D]
    if (!want_logits) continue;
    const Tensor logits = runner_.logits(hidden).to_host();  // [N, V]
    for (size_t n = 0; n < rows.size(); ++n)
      std::memcpy(&out.logits[rows[n] * vocab], logits.f32() + n * vocab, vocab * sizeof(float));
  }
  return out;
}

Computed Case::compute_alone(const Ids& ids, const Plan& plan, bool want_logits) {
  Computed out;
  for (size_t s = 0; s < ids.size(); ++s) {
    const Computed one = compute({ids[s]}, column(plan, s), want_logits);
    out.logits.insert(out.logits.end(), one.logits.begin(), one.logits.end());
    out.states.push_back(one.states.front());
  }
  return out;
}

bool Case::same_bits(const Computed& a, const Computed& b) const {
  return std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0 &&
         same_states(a.states, b.states, model_.lm->state_layout());
}

// Compares the tensor `name`, which holds the layout's entries `ours` one after the other, each for all sequences.
void Case::compare_state(const Computed& computed, const std::string& name, const std::vector<std::string>& ours,
                         const std::string& way) {
  std::vector<float> got;
  for (const std::string& state : ours) {
    for (const State& sequence : computed.states) {
      for (const NamedTensor& named : sequence.tensors(model_.lm->state_layout())) {
        if (named.name == state) got.insert(got.end(), named.tensor.f32(), named.tensor.f32() + named.tensor.count());
      }
    }
  }
  const std::vector<float> want = read_floats(name, static_cast<int64_t>(got.size()));
  fold(result(name), got.data(), want.data(), want.size(), {way, tolerance_});
}

void Case::compare_computed(const Computed& computed, const std::string& suffix, const std::string& way) {
  for (const std::string& name : logits_names(suffix)) {
    if (expected_.find(name) == nullptr) continue;
    const std::vector<float> want = read_floats(name, static_cast<int64_t>(computed.logits.size()));
    fold(result(name), computed.logits.data(), want.data(), want.size(), {way, tolerance_});
  }
  for (const StateLayout::Entry& state : model_.lm->state_layout().entries()) {
    const std::string name = "state." + state.name + suffix;
    if (expected_.find(name) == nullptr) continue;
    if (state.spec.per_token) {
      result(name).note = "keys and values are kept in pages of their own layout";
    } else {
      compare_state(computed, name, {state.name}, way);
    }
  }
  for (const formats::TensorEntry& tensor : expected_.entries()) {
    const std::vector<std::string> ours = package_state(tensor.name);
    if (suffix.empty() && !ours.empty()) compare_state(computed, tensor.name, ours, way);
  }
}

// Runs every way of cutting the sequences, together and each alone. The rest of the batch must not change one bit on
// the host. On a GPU the number of rows chooses the kernel of a product, so there each way is held to the tolerance
// alone.
void Case::compare_forward(const std::string& input, const std::string& suffix) {
  const Ids ids = read_ids(input);
  const auto batch = static_cast<int64_t>(ids.size());
  const auto length = static_cast<int64_t>(ids.front().size());
  bool logits = false;
  for (const std::string& name : logits_names(suffix)) {  // of the right size before that much is computed
    if (expected_.find(name) == nullptr) continue;
    read_floats(name, batch * length * model_.config.vocab_size);
    logits = true;
  }
  for (const Way& way : ways(batch, length)) {
    const Computed batched = compute(ids, way.plan, logits);
    compare_computed(batched, suffix, way.name);
    if (ids.size() == 1) continue;
    const Computed alone = compute_alone(ids, way.plan, logits);
    compare_computed(alone, suffix, fmt::format("{}, alone", way.name));
    const bool held = !kernel_traits(*setup_.stream.memory).rows_keep_bits || same_bits(batched, alone);
    if (held || expected_.find("logits" + suffix) == nullptr) continue;
    Comparison& comparison = result("logits" + suffix);
    comparison.status = Status::kFail;
    comparison.note = fmt::format("{}: batched and alone differ in bits", way.name);
  }
}

// Logits [V] after the last of `tokens`.
std::vector<float> Case::next_logits(std::span<const int32_t> tokens, State& state) {
  const Tensor logits = runner_.logits(runner_.prefill(tokens, state)).to_host();
  return std::vector<float>(logits.f32(), logits.f32() + logits.count());
}

// Whether the logit of `token` is the best one but for what rounding changes, where anything is rounded.
bool Case::as_likely(const std::vector<float>& logits, int32_t token, float best) const {
  if (!setup_.rounds) return false;
  const double size = std::sqrt(std::inner_product(logits.begin(), logits.end(), logits.begin(), 0.0) /
                                static_cast<double>(logits.size()));
  return static_cast<double>(best - logits[static_cast<size_t>(token)]) <= 2 * tolerance_ * size;
}

// Compares the tokens that greedy decoding appends to a prompt, past any end token.
void Case::compare_greedy(const std::string& name, const Ids& prompts) {
  const Ids want = read_ids(name);
  if (want.size() != prompts.size())
    fail(ErrorKind::kInput, "{}: \"{}\" has {} rows, expected {}", where_, name, want.size(), prompts.size());
  Comparison& comparison = result(name);
  comparison.status = Status::kOk;
  for (size_t s = 0; s < prompts.size(); ++s) {
    for (const Way& way : ways(1, static_cast<int64_t>(prompts[s].size()))) {
      State state;
      std::vector<float> last;  // [V]
      for (const std::vector<int64_t>& step : way.plan) {
        const auto begin = static_cast<size_t>(state.pos());
        if (step[0] > 0) last = next_logits(std::span(prompts[s]).subspan(begin, static_cast<size_t>(step[0])), state);
      }
      double wrong = 0;
      for (size_t t = 0; t < want[s].size(); ++t) {
        const auto token = static_cast<int32_t>(std::max_element(last.begin(), last.end()) - last.begin());
        if (token != want[s][t] && !as_likely(last, want[s][t], last[static_cast<size_t>(token)])) {
          if (wrong == 0 && comparison.note.empty())
            comparison.note = fmt::format("token {} is {}, expected {}: {}", t, token, want[s][t], way.name);
          ++wrong;
        }
        last = next_logits({&want[s][t], 1}, state);
      }
      comparison.relative = std::max(comparison.relative, wrong / static_cast<double>(want[s].size()));
      comparison.largest = std::max(comparison.largest, wrong);
    }
  }
  if (comparison.largest > 0) comparison.status = Status::kFail;
}

// Compares the mean cross-entropy of train.ids [B, T + 1] over all positions.
void Case::compare_loss() {
  double sum = 0;
  int64_t count = 0;
  for (const std::vector<int32_t>& row : read_ids("train.ids")) {
    const generate::TextScore score = generate::score_text(runner_, row, static_cast<int64_t>(row.size()));
    sum += score.nll;
    count += score.tokens;
  }
  if (count == 0) fail(ErrorKind::kInput, "{}: \"train.ids\" has no targets, expected [B, T + 1]", where_);
  const auto got = static_cast<float>(sum / static_cast<double>(count));
  fold(result("loss"), &got, read_floats("loss", 1).data(), 1, {"forward only", tolerance_});
}

// Compares the mean likelihood of valid.ids in windows whose length ends the tensor's name.
void Case::compare_mean(const std::string& name) {
  const std::string digits = name.substr(std::string(kMeanPrefix).size());
  int64_t window = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), window);
  if (parsed.ec != std::errc() || window < 1)
    fail(ErrorKind::kInput, "{}: \"{}\" ends in no window length", where_, name);
  const Ids ids = read_ids("valid.ids");
  const float want = read_floats(name, 1).front();
  const auto total = static_cast<int64_t>(ids.front().size());
  const generate::TextScore score = generate::score_text(runner_, ids.front(), window, [&](int64_t done, int64_t) {
    if (progress_) progress_(done, total);  // predictions, one fewer than tokens
    return true;
  });
  if (progress_) progress_(total, total);
  Comparison& comparison = result(name);
  const double mean = score.nll / static_cast<double>(std::max<int64_t>(1, score.tokens));
  comparison.largest = std::abs(mean - static_cast<double>(want));
  comparison.relative = comparison.largest / std::abs(static_cast<double>(want));
  comparison.status = comparison.relative <= tolerance_ ? Status::kOk : Status::kFail;
  comparison.note = fmt::format("{:.6f} nats per token", mean);
}

// Gradients and steps are those of native numbers.
void Case::compare_trained() {
  const auto& entries = expected_.entries();
  const auto of_training = [](const formats::TensorEntry& tensor) { return is_training(tensor.name); };
  if (model_.numerics->name != "native" || std::none_of(entries.begin(), entries.end(), of_training)) return;
  for (const Comparison& comparison : compare_training(folder_, expected_, setup_, base_of(folder_)))
    results_[comparison.name] = comparison;
}

std::vector<Comparison> Case::compare() {
  for (const formats::TensorEntry& tensor : expected_.entries()) {
    if (tensor.name == "ids" || tensor.name.starts_with("ids.")) compare_forward(tensor.name, tensor.name.substr(3));
    if (tensor.name == "loss") compare_loss();
    if (tensor.name == "greedy") compare_greedy("greedy", read_ids("prompt"));
    if (tensor.name.starts_with(kMeanPrefix)) compare_mean(tensor.name);
    if (tensor.name == "greedy_from_bos") {
      Fields config(model_.config.source, folder_ + "/config.json");
      const int64_t bos = config.integer("bos_token_id", 0, model_.config.vocab_size - 1);
      compare_greedy(tensor.name, {{static_cast<int32_t>(bos)}});
    }
  }
  const bool prompted = expected_.find("ids") == nullptr && expected_.find("prompt") != nullptr;
  if (prompted && expected_.find("logits") != nullptr) compare_forward("prompt", "");
  compare_trained();
  for (const Comparison& comparison : compare_merged(folder_, expected_, setup_.stream))
    results_[comparison.name] = comparison;
  std::vector<Comparison> out;
  for (const formats::TensorEntry& tensor : expected_.entries()) {
    if (is_input(tensor.name)) continue;
    Comparison& comparison = result(tensor.name);
    if (comparison.status == Status::kSkip && comparison.note.empty())
      comparison.note = "nothing in this build computes it";
    out.push_back(comparison);
  }
  return out;
}

}  // namespace

std::vector<Comparison> compare_language_case(const std::string& folder, const Setup& setup,
                                              const TokensDone& progress) {
  return Case(folder, setup, progress).compare();
}

}  // namespace carousel::verify
