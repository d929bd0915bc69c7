// SPDX-License-Identifier: Apache-2.0
// carousel generate: a prompt continued, streamed to standard output, which carries the text alone. The loop is
// generate/batcher.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/prompt.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/generate/batcher.h"
#include "carousel/model/load.h"
#include "carousel/model/saved_state.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;
constexpr int64_t kMaxSamples = 4096;
constexpr int64_t kMaxTopLogprobs = 1 << 16;
constexpr int64_t kMaxLastN = int64_t{1} << 30;
constexpr int kInterruptedStatus = 130;
constexpr int kBrokenPipeStatus = 141;

struct GenerateOptions {
  std::string model, prompt, file, save_state, load_state;
  bool has_prompt = false;
  bool no_display_prompt = false;
  int64_t predict = -1;
  int64_t seed = -1;
  int64_t samples = 1;
  generate::SamplerParams sampler;
  std::vector<std::string> stop;
  bool json = false;
  int64_t top_logprobs = 0;
  Machine machine;
};

/// Standard output, flushed piece by piece. Once nobody reads it any more it is closed, which is no error.
class Output {
 public:
  bool write(std::string_view text) {
    if (closed_ || text.empty()) return !closed_;
    ends_line_ = text.back() == '\n';
    if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return true;
    if (errno != EPIPE) fail(ErrorKind::kIo, "stdout: cannot write: {}", std::strerror(errno));
    return !(closed_ = true);
  }
  void end_line() {
    if (!ends_line_) write("\n");
  }
  bool closed() const { return closed_; }

 private:
  bool closed_ = false;
  bool ends_line_ = true;
};

generate::Request make_request(const GenerateOptions& options, const model::Model& model, const Prompt& prompt) {
  generate::Request request;
  request.sampler = options.sampler;
  request.seed = options.seed >= 0 ? static_cast<uint64_t>(options.seed) : std::random_device()();
  request.samples = options.samples;
  request.max_tokens = options.predict;
  request.stop = options.stop;
  request.logprobs = options.json;
  request.top_logprobs = options.top_logprobs;
  request.keep_state = !options.save_state.empty();
  if (!options.load_state.empty()) {
    model::SavedState saved = model::load_state(options.load_state, model);
    request.state = std::move(saved.state);
    request.history = std::move(saved.tokens);
    request.logits = std::move(saved.logits);
  }
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
          {"text", finished.text},  // what was held back in case it began a stop string
          {"stop", generate::stop_reason_name(finished.reason)},
          {"prompt_tokens", finished.prompt_tokens},
          {"tokens", finished.tokens},
          {"seed", seed}};
}

/// What a run prints and leaves behind.
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
  void print_rates(uint64_t seed) const;

  const GenerateOptions& options_;
  const model::Model& model_;
  generate::Batcher batcher_;
  Output output_;
  std::string prompt_;  // as displayed
  // Several samples cannot share one stream of text: each is printed when those before it are complete.
  std::vector<std::string> texts_;
  std::vector<bool> complete_;
  size_t printed_ = 0;
  std::string error_;
  model::SavedState saved_;
  bool to_save_ = false;
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

void Run::loop() {
  bool cancelled = false;
  while (batcher_.live() > 0) {
    if (interrupted() && !cancelled) {
      cancelled = true;
      batcher_.cancel();
      continue;
    }
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
  texts_.resize(static_cast<size_t>(options_.samples));
  complete_.resize(texts_.size());
  if (!options_.no_display_prompt) prompt_ = prompt.text;
  request.on_token = [this](const generate::Emitted& token) { return on_token(token); };
  request.on_finish = [this, seed](generate::Finished& finished) { on_finish(finished, seed); };
  batcher_.submit(std::move(request));
  if (!options_.json && options_.samples == 1) output_.write(prompt_);
  loop();
  if (to_save_) model::save_state(options_.save_state, saved_, model_);
  if (!error_.empty()) fail(ErrorKind::kInput, "{}", error_);
  print_rates(seed);
  if (interrupted()) return kInterruptedStatus;
  return output_.closed() ? kBrokenPipeStatus : 0;
}

/// What can be known to fail after a long run is found before it.
void check_save_path(const GenerateOptions& options) {
  if (options.save_state.empty()) return;
  if (options.samples > 1) {
    fail(ErrorKind::kUsage, "--save-state: got --samples {}, expected 1: one file holds one state", options.samples);
  }
  std::error_code ignored;
  if (std::filesystem::exists(options.save_state, ignored) &&
      !std::filesystem::is_regular_file(options.save_state, ignored)) {
    fail(ErrorKind::kIo, "{}: exists and is no regular file, expected one or none to write", options.save_state);
  }
  const std::filesystem::path folder = std::filesystem::absolute(options.save_state).parent_path();
  if (access(folder.c_str(), W_OK) != 0) {
    fail(ErrorKind::kIo, "{}: cannot write here: {}", options.save_state, std::strerror(errno));
  }
}

int run_generate(GenerateOptions& options) {
  if (options.top_logprobs > 0 && !options.json) {
    fail(ErrorKind::kUsage, "--top-logprobs: got {} without --json, expected both", options.top_logprobs);
  }
  check_save_path(options);
  if (options.has_prompt && !options.file.empty()) {
    fail(ErrorKind::kUsage, "generate: got both -p and -f, expected at most one");
  }
  // A resumed state needs no prompt, so what stdin happens to be is not read unasked.
  const Prompt prompt =
      options.has_prompt ? Prompt{options.prompt, "--prompt"} : read_prompt(options.file, options.load_state.empty());
  const Stream stream = options.machine.stream();
  const model::Model model = model::load(options.model, stream);
  for (const std::string& warning : model.warnings) note("warning: " + warning);
  generate::Request request = make_request(options, model, prompt);
  catch_interrupts();
  return Run(options, model, stream).run(std::move(request), prompt);
}

/// "15043+1", "2-inf", "2=false": a token and what is added to its logit.
std::pair<int32_t, double> parse_bias(const std::string& text) {
  const size_t split = text.find_first_of("+-=");
  std::string bias = split == std::string::npos ? "" : text.substr(split + (text[split] != '-'));
  const std::string id = text.substr(0, split);
  constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
  const bool digits = !id.empty() && id.size() <= 9 && id.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || bias.empty()) {
    fail(ErrorKind::kUsage, "--logit-bias: got \"{}\", expected ID+BIAS, ID-BIAS or ID-inf", text);
  }
  const auto token = static_cast<int32_t>(std::stol(id));
  if (bias == "-inf" || bias == "false") return {token, kMinusInfinity};
  constexpr double kLargest = 1e9;
  return {token, parse_number("--logit-bias", bias, -kLargest, kLargest)};
}

void add_sampler_options(CLI::App& app, GenerateOptions& options) {
  constexpr double kMost = generate::SamplerParams::kMost;
  generate::SamplerParams& sampler = options.sampler;
  add_number(app, "--temp", sampler.temp, 0, std::numeric_limits<double>::infinity(),
             "Temperature; 0: the likeliest token");
  add_integer(app, "--top-k", sampler.top_k, 0, kMaxCount, "Sample among the k likeliest; 0: off");
  add_number(app, "--top-p", sampler.top_p, 0, 1, "Among the likeliest that hold this probability; 1: off");
  add_number(app, "--min-p", sampler.min_p, 0, 1, "Among those this likely, relative to the likeliest; 0: off");
  add_number(app, "--typical", sampler.typical, 0, 1, "Among the locally typical of this probability; 1: off");
  add_integer(app, "--repeat-last-n", sampler.repeat_last_n, -1, kMaxLastN,
              "Tokens the penalties look back on; 0: off, -1: all");
  add_number(app, "--repeat-penalty", sampler.repeat_penalty, 1e-6, kMost, "Divides logits of tokens seen; 1: off");
  add_number(app, "--presence-penalty", sampler.presence_penalty, -kMost, kMost, "Off logits of tokens seen; 0: off");
  add_number(app, "--frequency-penalty", sampler.frequency_penalty, -kMost, kMost,
             "Off logits for each time a token was seen; 0: off");
  CLI::Option* bias = app.add_option("-l,--logit-bias", [&sampler](const CLI::results_t& results) {
    for (const std::string& text : results) sampler.logit_bias.push_back(parse_bias(text));
    return true;
  });
  bias->description("Added to a token's logit; ID-inf bans it; repeatable")->type_name("ID(+/-)BIAS");
  bias->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->expected(1)->allow_extra_args(false);
  app.add_flag("--ignore-eos", sampler.ignore_eos, "Never sample an end token");
}

}  // namespace

std::function<int()> setup_generate(CLI::App& app) {
  const auto options = std::make_shared<GenerateOptions>();
  app.add_option("model", options->model, "Model folder, or a .safetensors with its config.json beside it")->required();
  CLI::Option* prompt = app.add_option("-p,--prompt", options->prompt, "Text to continue (default: stdin)");
  app.add_option("-f,--file", options->file, "File with the text to continue; -: stdin");
  app.add_flag("--no-display-prompt", options->no_display_prompt, "Print the continuation alone");
  add_integer(app, "-n,--n-predict,--predict", options->predict, -1, kMaxCount,
              "Tokens to generate; -1: until an end token");
  add_integer(app, "-s,--seed", options->seed, -1, std::numeric_limits<int64_t>::max(), "Seed; -1: a random one");
  add_sampler_options(app, *options);
  CLI::Option* stop = app.add_option("--stop", options->stop, "Stop before this text; repeatable");
  stop->expected(1)->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  add_integer(app, "--samples", options->samples, 1, kMaxSamples, "Continuations, forked from one read of the prompt");
  app.add_option("--save-state", options->save_state, "File for the state after the run, also after Ctrl-C");
  app.add_option("--load-state", options->load_state, "State to go on from; a prompt then follows its text");
  app.add_flag("--json", options->json, "One JSON record per token, and one at the end of each sample");
  add_integer(app, "--top-logprobs", options->top_logprobs, 0, kMaxTopLogprobs, "Likeliest tokens in each JSON record");
  options->machine.add_options(app);
  return [options, prompt] {
    options->has_prompt = prompt->count() > 0;
    return run_generate(*options);
  };
}

}  // namespace carousel::cli
