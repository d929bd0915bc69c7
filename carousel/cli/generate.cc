// SPDX-License-Identifier: Apache-2.0
// carousel generate: a prompt continued, streamed to standard output, which carries the text alone. The loop is
// generate/batcher.
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/generation.h"
#include "carousel/cli/options.h"
#include "carousel/cli/output_path.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/prompt.h"
#include "carousel/cli/signals.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/cost.h"
#include "carousel/model/saved_state.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxSamples = 4096;
constexpr int64_t kMaxTopLogprobs = 1 << 16;

struct GenerateOptions : GenerationOptions {
  std::string prompt, file;
  bool has_prompt = false;
  bool no_display_prompt = false;
  int64_t samples = 1;
  bool json = false;
  int64_t top_logprobs = 0;
};

/// Saves the state of the prompt so far, when a signal ends its reading. `read`: how many tokens.
void save_prefix(const GenerateOptions& options, const model::Model& model, const model::SavedState& prefix,
                 const std::string& read) {
  if (options.save_state.empty()) return note(fmt::format("interrupted within the prompt, {}", read));
  model::save_state(options.save_state, prefix, model);
  note(fmt::format("interrupted within the prompt, {}; {} holds the state after {} tokens", read, options.save_state,
                   prefix.state.pos()));
}

std::string read_of(int64_t read, size_t all) {
  return fmt::format("{} of its {} tokens read", with_commas(read), with_commas(static_cast<int64_t>(all)));
}

/// The request that the options ask for. `saved`: the state of --load-state.
generate::Request make_request(const GenerateOptions& options, const model::Model& model, const Prompt& prompt,
                               model::SavedState saved) {
  generate::Request request = options.request();
  request.samples = options.samples;
  request.logprobs = options.json;
  request.top_logprobs = options.top_logprobs;
  request.keep_state = !options.save_state.empty();
  request.state = std::move(saved.state);
  request.history = std::move(saved.tokens);
  request.logits = std::move(saved.logits);
  check_prompt(prompt, model.text());
  const bool fresh = request.state.pos() == 0;
  if (!prompt.text.empty() || fresh) request.prompt = model.text().encode(prompt.text, fresh, true);
  if (request.prompt.empty() && fresh) request.prompt.push_back(start_token(model));
  if (request.prompt.empty() && !request.logits.defined()) {
    fail(ErrorKind::kInput, "{}: saved in the middle of its prompt, expected the rest of it with -p or -f",
         options.load_state);
  }
  return request;
}

/// Bytes as a string where they are text, else as an array of numbers.
Json text_json(const std::string& bytes) {
  if (text::valid_prefix(bytes) == bytes.size()) return bytes;
  Json numbers = Json::array();
  for (const char c : bytes) numbers.push_back(static_cast<int>(static_cast<unsigned char>(c)));
  return numbers;
}

Json token_json(const generate::Emitted& token, const model::Model& model) {
  const auto own_text = [&](int32_t id) { return text_json(model.text().decode_bytes(std::span(&id, 1))); };
  Json record = {{"sample", token.sample}, {"index", token.index},        {"id", token.id},
                 {"text", token.text},     {"token", own_text(token.id)}, {"logprob", token.logprob}};
  if (token.top.empty()) return record;
  Json& top = record["top_logprobs"] = Json::array();
  for (const generate::TokenLogprob& other : token.top) {
    top.push_back({{"id", other.id}, {"token", own_text(other.id)}, {"logprob", other.logprob}});
  }
  return record;
}

Json end_json(const generate::Finished& finished, uint64_t seed) {
  return {{"sample", finished.sample},
          {"text", finished.text},  // text held back because it might begin a stop string
          {"stop", generate::stop_reason_name(finished.reason)},
          {"prompt_tokens", finished.prompt_tokens},
          {"tokens", finished.tokens},
          {"seed", seed}};
}

/// The output of a run, and the state it saves.
class Run {
 public:
  Run(const GenerateOptions& options, const model::Model& model, const Stream& stream)
      : options_(options), model_(model), batcher_(model, stream) {}

  int run(generate::Request request, const Prompt& prompt);

 private:
  bool on_token(const generate::Emitted& token);
  void on_finish(generate::Finished& finished, uint64_t seed);
  void print_samples();
  void loop();
  void leave_prefix();
  void print_rates(uint64_t seed) const;

  const GenerateOptions& options_;
  const model::Model& model_;
  generate::Batcher batcher_;
  Output output_;
  std::string prompt_;  // the prompt as it is displayed
  // Several samples cannot share one stream of text: each is printed when the samples before it are complete.
  std::vector<std::string> texts_;
  std::vector<bool> complete_;
  size_t printed_ = 0;
  std::string error_;
  model::SavedState saved_;
  bool to_save_ = false;
  size_t prompt_tokens_ = 0;
  int64_t prompt_rows_ = 0;
  int64_t decode_rows_ = 0;
  double prompt_seconds_ = 0;
  double decode_seconds_ = 0;
};

bool Run::on_token(const generate::Emitted& token) {
  if (options_.json) return output_.write(token_json(token, model_).dump() + "\n");
  if (options_.samples == 1) return output_.write(token.text);
  texts_[static_cast<size_t>(token.sample)] += token.text;
  return !output_.closed();
}

void Run::on_finish(generate::Finished& finished, uint64_t seed) {
  if (finished.reason == generate::StopReason::kFailed) {
    error_ = finished.error;
    if (!options_.json) output_.end_line();
    return;
  }
  if (options_.json) {
    output_.write(end_json(finished, seed).dump() + "\n");
  } else if (options_.samples == 1) {
    output_.write(finished.text);
    output_.end_line();
  } else {
    texts_[static_cast<size_t>(finished.sample)] += finished.text;
    complete_[static_cast<size_t>(finished.sample)] = true;
    print_samples();
  }
  if (options_.save_state.empty()) return;
  to_save_ = true;
  saved_ = {std::move(finished.state), std::move(finished.history), std::move(finished.logits)};
}

void Run::print_samples() {
  for (; printed_ < texts_.size() && complete_[printed_]; ++printed_) {
    output_.write(fmt::format("{}--- {} ---\n{}{}", printed_ > 0 ? "\n" : "", printed_ + 1, prompt_, texts_[printed_]));
    output_.end_line();
  }
}

/// A tick may take longer than the grace after a signal: then the prefix before the tick is saved. Ticks after the
/// prompt are short.
void Run::leave_prefix() {
  if (prompt_rows_ == static_cast<int64_t>(prompt_tokens_)) return end_by_itself();
  set_last_will([this, prefix = batcher_.prefix().value_or(model::SavedState()), read = prompt_rows_] {
    save_prefix(options_, model_, prefix, read_of(read, prompt_tokens_));
  });
}

void Run::loop() {
  bool cancelled = false;
  while (batcher_.live() > 0) {
    if (interrupted() && !cancelled) {
      cancelled = true;
      end_by_itself();
      batcher_.stop_when({});
      batcher_.cancel();
      continue;
    }
    if (decode_rows_ == 0) leave_prefix();
    const auto start = std::chrono::steady_clock::now();
    const generate::Batcher::Rows rows = batcher_.tick();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    (rows.prompt > 0 ? prompt_seconds_ : decode_seconds_) += seconds;
    prompt_rows_ += rows.prompt;
    decode_rows_ += rows.decode;
  }
}

/// "VmHWM:    45312 kB" of this process: unlike getrusage's, not that of the program it was started from.
double peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::strtod(line.c_str() + 6, nullptr) * 1024;
  }
  return 0;
}

void Run::print_rates(uint64_t seed) const {
  const auto part = [](const char* name, int64_t tokens, double seconds) {
    const double rate = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
    return fmt::format("{} {} tokens, {:.1f} tok/s", name, tokens, rate);
  };
  note(fmt::format("{} | {} | peak memory {} | seed {}{}", part("prompt", prompt_rows_, prompt_seconds_),
                   part("decode", decode_rows_, decode_seconds_), in_binary_units(peak_memory_bytes()), seed,
                   interrupted() ? " | interrupted" : ""));
}

int Run::run(generate::Request request, const Prompt& prompt) {
  const uint64_t seed = request.seed;
  prompt_tokens_ = request.prompt.size();
  texts_.resize(static_cast<size_t>(options_.samples));
  complete_.resize(texts_.size());
  if (!options_.no_display_prompt) prompt_ = prompt.text;
  request.on_token = [this](const generate::Emitted& token) { return on_token(token); };
  request.on_finish = [this, seed](generate::Finished& finished) { on_finish(finished, seed); };
  batcher_.submit(std::move(request));
  batcher_.stop_when(interrupted);
  if (!options_.json && options_.samples == 1) output_.write(prompt_);
  loop();
  end_by_itself();
  if (interrupted() && prompt_rows_ < static_cast<int64_t>(prompt_tokens_)) {
    save_prefix(options_, model_, saved_, read_of(prompt_rows_, prompt_tokens_));
  } else if (to_save_) {
    model::save_state(options_.save_state, saved_, model_);
  }
  if (!error_.empty()) fail(ErrorKind::kInput, "{}", error_);
  print_rates(seed);
  if (interrupted()) return kInterruptedStatus;
  return output_.closed() ? kBrokenPipeStatus : 0;
}

int run_generate(GenerateOptions& options) {
  if (options.top_logprobs > 0 && !options.json) {
    fail(ErrorKind::kUsage, "--top-logprobs: got {} without --json, expected both", options.top_logprobs);
  }
  if (!options.save_state.empty() && options.samples > 1) {
    fail(ErrorKind::kUsage, "--save-state: got --samples {}, expected 1: one file holds one state", options.samples);
  }
  if (!options.save_state.empty()) check_save_path(options.save_state);
  if (options.has_prompt && !options.file.empty()) {
    fail(ErrorKind::kUsage, "generate: got both -p and -f, expected at most one");
  }
  // A resumed state needs no prompt, so stdin is read only if it is named.
  const Prompt prompt = options.has_prompt ? Prompt{options.escapes.read(options.prompt), "--prompt"}
                                           : read_prompt(options.file, options.load_state.empty());
  const Stream stream = options.machine.stream();
  const model::Model model = options.load(stream);
  model::SavedState saved;
  if (!options.load_state.empty()) saved = model::load_state(options.load_state, model);
  const LastWillScope scope;
  set_last_will([&options, &model, saved] { save_prefix(options, model, saved, "nothing of it read"); });
  catch_interrupts();
  generate::Request request = make_request(options, model, prompt, std::move(saved));
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  const bool apart = request.max_tokens < 0 || request.max_tokens > 1;  // else samples share a state
  const std::string& where = prompt.where.empty() ? options.load_state : prompt.where;
  model::check_sequences(*model.lm, stream, where, request.state, tokens, apart ? options.samples : 1);
  return Run(options, model, stream).run(std::move(request), prompt);
}

}  // namespace

std::function<int()> setup_generate(CLI::App& app) {
  const auto options = std::make_shared<GenerateOptions>();
  options->add_model(app);
  CLI::Option* prompt =
      app.add_option("-p,--prompt", options->prompt,
                     std::string("Text to continue (default: stdin, or none at a terminal)") + kTakesEscapes);
  app.add_option("-f,--file", options->file, "File with the text to continue; -: stdin");
  app.add_flag("--no-display-prompt", options->no_display_prompt, "Print the continuation alone");
  options->add_sampling(app, "-p");
  add_integer(app, "--samples", options->samples, 1, kMaxSamples, "Continuations, forked from one read of the prompt");
  options->add_states(app);
  app.add_flag("--json", options->json, "One JSON record per token, and one at the end of each sample");
  add_integer(app, "--top-logprobs", options->top_logprobs, 0, kMaxTopLogprobs, "Likeliest tokens in each JSON record");
  options->weights.add_options(app);
  options->weights.add_mmap(app);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options, prompt] {
    options->has_prompt = prompt->count() > 0;
    return run_generate(*options);
  };
}

}  // namespace carousel::cli
