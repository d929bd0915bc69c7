// SPDX-License-Identifier: Apache-2.0
// Options of generate and chat, the request they make, and standard output.
#include "carousel/cli/generation.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <utility>

#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/core/error.h"
#include "carousel/model/profile.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;
constexpr int64_t kMaxLastN = int64_t{1} << 30;

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

void add_sampler(CLI::App& app, generate::SamplerParams& sampler) {
  constexpr double kMost = generate::SamplerParams::kMost;
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

void GenerationOptions::add_model(CLI::App& app) {
  app.add_option("model", model, "Model folder, a .gguf, or a .safetensors with its config.json beside it")->required();
  app.add_option("--adapter", adapter, "Folder of an adapter, which is merged into the weights");
  add_profile(app, "--profile", profile, "How numbers are handled");
}

void GenerationOptions::add_sampling(CLI::App& app, const std::string& with_escapes) {
  add_integer(app, "-n,--n-predict,--predict", predict, -1, kMaxCount, "Tokens to generate; -1: until an end token");
  add_integer(app, "-s,--seed", seed, -1, std::numeric_limits<int64_t>::max(), "Seed; -1: a random one");
  add_sampler(app, sampler);
  CLI::Option* option = app.add_option(
      "--stop",
      [this](const CLI::results_t& results) {
        for (const std::string& text : results) {
          if (text.empty()) fail(ErrorKind::kUsage, "--stop: got \"\", expected some text to stop before");
        }
        stop = results;
        return true;
      },
      std::string("Stop before this text; repeatable") + kTakesEscapes);
  option->type_name("TEXT")->expected(1)->allow_extra_args(false)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  escapes.add_option(app, with_escapes + " and --stop");
}

void GenerationOptions::add_states(CLI::App& app) {
  app.add_option("--save-state", save_state, "File for the state after the run, also after Ctrl-C");
  app.add_option("--load-state", load_state, "State to go on from; a prompt then follows its text");
}

model::Model GenerationOptions::load(const Stream& stream) const {
  const Numerics numerics = model::find_profile(profile);
  model::Model loaded = model::load(model, stream, model::ModelKind::kLanguage, numerics, weights.types(), adapter);
  for (const std::string& warning : loaded.warnings) note("warning: " + warning);
  return loaded;
}

generate::Request GenerationOptions::request() const {
  generate::Request request;
  request.sampler = sampler;
  request.seed = seed >= 0 ? static_cast<uint64_t>(seed) : std::random_device()();
  request.max_tokens = predict;
  for (const std::string& text : stop) request.stop.push_back(escapes.read(text));
  return request;
}

bool Output::write(std::string_view text) {
  if (closed_ || text.empty()) return !closed_;
  ends_line_ = text.back() == '\n';
  if (write_all(STDOUT_FILENO, text)) return true;
  if (errno == EINTR) return false;
  failed_ = errno != EPIPE;
  if (failed_) fail(ErrorKind::kIo, "stdout: cannot write: {}", std::strerror(errno));
  return !(closed_ = true);
}

void Output::end_line() {
  if (!ends_line_) write("\n");
}

}  // namespace carousel::cli
