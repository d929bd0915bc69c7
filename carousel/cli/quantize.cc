// SPDX-License-Identifier: Apache-2.0
// carousel quantize: a model's weights written anew in a narrower type, and what that costs on a text. The conversion
// is model/quantise.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/generate/evaluate.h"
#include "carousel/model/load.h"
#include "carousel/model/quantise.h"

namespace carousel::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{4} << 30;
constexpr int64_t kWindow = 512;  // eval's default
constexpr int kInterruptedStatus = 130;

struct QuantizeOptions {
  std::string model, out, eval;
  WeightOptions weights;
  bool json = false;
  Machine machine;
};

struct Score {
  double nats_per_token = 0;
  int64_t tokens = 0;
};

Score score_of(const std::string& path, const std::string& text_path, const Stream& stream, const char* label,
               const char* state) {
  const model::Model model = model::load(path, stream);
  const std::vector<int32_t> ids = model.text().encode(read_text_file(text_path, kMaxTextBytes), true, true);
  if (ids.size() < 2) fail(ErrorKind::kInput, "{}: the text is {} tokens, expected at least 2", text_path, ids.size());
  for (const int32_t id : ids) {
    if (id >= model.config.vocab_size) {
      fail(ErrorKind::kInput, "{}: the tokenizer gives id {}, expected below the model's vocab_size {}", text_path, id,
           model.config.vocab_size);
    }
  }
  model::Runner runner(*model.lm, stream);
  Progress bar(fmt::format("tokens {}", label).c_str(), static_cast<int64_t>(ids.size()) - 1);
  const generate::TextScore score = generate::score_text(runner, ids, kWindow, [&](int64_t done, int64_t) {
    bar.update(done);
    return !interrupted();
  });
  if (!score.complete) fail(ErrorKind::kCancelled, "{}: interrupted; {}", text_path, state);
  generate::check_likelihood(score.nll, path);
  return {score.nll / static_cast<double>(score.tokens), score.tokens};
}

void print_result(const Json& result) {
  const double before = result.at("bytes_before").get<double>(), after = result.at("bytes_after").get<double>();
  fmt::print("weights          {} -> {} ({:.1f}%)\n", in_binary_units(before), in_binary_units(after),
             100 * after / std::max(1.0, before));
  if (!result.contains("eval")) return;
  const Json& eval = result.at("eval");
  fmt::print("nats per token   {:.4f} -> {:.4f} ({:+.4f}) over {} tokens\n",
             eval.at("nats_per_token_before").get<double>(), eval.at("nats_per_token_after").get<double>(),
             eval.at("nats_lost").get<double>(), eval.at("tokens").get<int64_t>());
}

int run_quantize(const QuantizeOptions& options, const Stream& stream) {
  const bool gguf = is_gguf_name(options.out);
  catch_interrupts();
  // A failure that can be foreseen is found before the work.
  Score before;
  if (!options.eval.empty()) before = score_of(options.model, options.eval, stream, "before", "nothing was written");
  model::QuantiseResult written;
  {
    Progress bar("%", 100);
    const auto go_on = [&](double done) {
      bar.update(static_cast<int64_t>(100 * done));
      return may_go_on(done);
    };
    const auto write = gguf ? model::write_quantised_gguf : model::write_quantised;
    written = write(options.model, options.weights.types(), stream, options.out, go_on);
  }
  set_last_will({});  // also takes end_by_itself() back: the model is written
  for (const std::string& kept : written.kept) note("warning: " + kept);
  Json result = {{"out", options.out}, {"bytes_before", written.bytes_before}, {"bytes_after", written.bytes_after}};
  if (!options.eval.empty()) {
    const Score after = score_of(options.out, options.eval, stream, "after", "the model is written");
    result["eval"] = {{"file", options.eval},
                      {"tokens", after.tokens},
                      {"nats_per_token_before", before.nats_per_token},
                      {"nats_per_token_after", after.nats_per_token},
                      {"nats_lost", after.nats_per_token - before.nats_per_token}};
  }
  if (options.json) {
    fmt::print("{}\n", result.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_result(result);
  }
  return interrupted() ? kInterruptedStatus : 0;
}

}  // namespace

std::function<int()> setup_quantize(CLI::App& app) {
  const auto options = std::make_shared<QuantizeOptions>();
  app.add_option("model", options->model, "Model folder, .safetensors or .gguf")->required();
  options->weights.add_type(app);
  app.add_option("--out", options->out, "FILE.gguf, or a folder to write, which must be new or empty")->required();
  app.add_option("--eval", options->eval, "Text to measure the nats per token on, before and after");
  app.add_flag("--json", options->json, "Results as JSON");
  options->machine.add_cpu_options(app);
  return [options] { return run_quantize(*options, options->machine.stream()); };
}

}  // namespace carousel::cli
