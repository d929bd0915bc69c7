// SPDX-License-Identifier: Apache-2.0
// carousel eval: how well a model predicts a text, and the last words of LAMBADA passages. The computation is
// generate/evaluate.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <optional>
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
#include "carousel/model/profile.h"
#include "carousel/text/unicode.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxWindow = int64_t{1} << 30;
constexpr size_t kMaxTextBytes = size_t{4} << 30;

struct EvalOptions {
  std::string model, adapter, text, lambada;
  std::string profile = "native";
  int64_t window = 512;
  bool json = false;
  WeightOptions weights;
  Machine machine;
};

void check_ids(std::span<const int32_t> ids, const model::Model& model, const std::string& where) {
  for (const int32_t id : ids) {
    if (id >= model.config.vocab_size) {
      fail(ErrorKind::kInput, "{}: the tokenizer gives id {}, expected below the model's vocab_size {}", where, id,
           model.config.vocab_size);
    }
  }
}

// {"nats_per_token": ..., ...} from the sum over `tokens` predictions that spell `bytes` bytes.
Json rates(double nll, int64_t tokens, int64_t bytes) {
  const double per_token = nll / static_cast<double>(tokens);
  const double per_byte = nll / static_cast<double>(std::max<int64_t>(1, bytes));
  return {{"nats_per_token", per_token},
          {"bits_per_token", per_token / std::numbers::ln2},
          {"nats_per_byte", per_byte},
          {"bits_per_byte", per_byte / std::numbers::ln2},
          {"perplexity", std::exp(per_token)}};
}

Json eval_text(const EvalOptions& options, const model::Model& model, model::Runner& runner) {
  const std::string text = read_text_file(options.text, kMaxTextBytes);
  const std::vector<int32_t> ids = model.text().encode(text, true, true);
  check_ids(ids, model, options.text);
  if (ids.size() < 2)
    fail(ErrorKind::kInput, "{}: the text is {} tokens, expected at least 2", options.text, ids.size());
  generate::TextScore score;
  {
    Progress bar("tokens", static_cast<int64_t>(ids.size()) - 1);
    score = generate::score_text(runner, ids, options.window, [&](int64_t done, int64_t) {
      bar.update(done);
      return !interrupted();
    });
  }
  if (score.tokens == 0) return {{"file", options.text}, {"complete", false}, {"tokens", 0}};
  generate::check_likelihood(score.nll, options.model);
  // A text that was not finished counts the bytes of the tokens scored so far.
  const std::span<const int32_t> seen = std::span(ids).first(static_cast<size_t>(score.tokens) + 1);
  const size_t bytes = score.complete ? text.size() : model.text().decode_bytes(seen).size();
  Json result = rates(score.nll, score.tokens, static_cast<int64_t>(bytes));
  result.update({{"file", options.text},
                 {"tokens", score.tokens},
                 {"bytes", bytes},
                 {"window", options.window},
                 {"complete", score.complete}});
  return result;
}

// The text up to the last space is the context; " " and the last word are the target. Both are encoded together where
// the cut falls between tokens, since a tokenizer may treat the start of a text specially.
generate::Passage split_passage(const std::string& text, const model::Model& model, const std::string& where) {
  const size_t space = text.find_last_of(' ');
  if (space == std::string::npos || space == 0 || space + 1 == text.size())
    fail(ErrorKind::kInput, "{}: \"text\" is {}, expected words and a last one after a space", where, brief(text));
  const text::Tokenizer& tokenizer = model.text();
  generate::Passage passage;
  passage.context = tokenizer.encode(text.substr(0, space), true, false);
  std::vector<int32_t> whole = tokenizer.encode(text, true, false);
  const size_t given = passage.context.size();
  if (whole.size() > given && std::equal(passage.context.begin(), passage.context.end(), whole.begin())) {
    passage.target.assign(whole.begin() + static_cast<int64_t>(given), whole.end());
  } else {
    passage.target = tokenizer.encode(text.substr(space), false, false);
  }
  check_ids(passage.context, model, where);
  check_ids(passage.target, model, where);
  return passage;
}

std::vector<generate::Passage> read_lambada(const std::string& path, const model::Model& model) {
  const std::string lines = text::without_byte_order_mark(read_text_file(path, kMaxTextBytes));
  std::vector<generate::Passage> passages;
  int64_t number = 0;
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    const std::string line = lines.substr(begin, end - begin);
    begin = end + 1;
    const std::string where = fmt::format("{}:{}", path, ++number);
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Fields fields(parse_json(line, where), where);
    passages.push_back(split_passage(fields.string("text"), model, where));
  }
  if (passages.empty()) fail(ErrorKind::kInput, "{}: no passages, expected lines of {{\"text\": ...}}", path);
  return passages;
}

Json eval_lambada(const EvalOptions& options, const model::Model& model, model::Runner& runner) {
  const std::vector<generate::Passage> passages = read_lambada(options.lambada, model);
  Progress bar("passages", static_cast<int64_t>(passages.size()));
  const generate::PassageScore score = generate::score_passages(runner, passages, [&](int64_t done, int64_t) {
    bar.update(done);
    return !interrupted();
  });
  Json result = {{"file", options.lambada}, {"passages", score.passages}, {"complete", score.complete}};
  if (score.passages == 0) return result;
  generate::check_likelihood(score.nll, options.model);
  const double per_token = score.nll / static_cast<double>(score.tokens);
  result.update({{"correct", score.correct},
                 {"accuracy", static_cast<double>(score.correct) / static_cast<double>(score.passages)},
                 {"target_tokens", score.tokens},
                 {"nats_per_target", score.nll / static_cast<double>(score.passages)},
                 {"target_perplexity", std::exp(score.nll / static_cast<double>(score.passages))},
                 {"token_perplexity", std::exp(per_token)}});
  return result;
}

void print_text(const Json& result) {
  if (!result.at("complete").get<bool>()) fmt::print("partial result: stopped early\n");
  if (result.at("tokens") == 0) return;
  fmt::print("{}: {} tokens, {} bytes, windows of {}\n", result.at("file").get<std::string>(),
             with_commas(result.at("tokens").get<int64_t>()), with_commas(result.at("bytes").get<int64_t>()),
             with_commas(result.at("window").get<int64_t>()));
  fmt::print("            per token   per byte\n");
  fmt::print("nats        {:<11.4f} {:.4f}\n", result.at("nats_per_token").get<double>(),
             result.at("nats_per_byte").get<double>());
  fmt::print("bits        {:<11.4f} {:.4f}\n", result.at("bits_per_token").get<double>(),
             result.at("bits_per_byte").get<double>());
  fmt::print("perplexity  {:.4f}\n", result.at("perplexity").get<double>());
}

void print_lambada(const Json& result) {
  if (!result.at("complete").get<bool>()) fmt::print("partial result: stopped early\n");
  if (result.at("passages") == 0) return;
  fmt::print("{}: {} passages\n", result.at("file").get<std::string>(),
             with_commas(result.at("passages").get<int64_t>()));
  fmt::print("last word   {:.2f}% ({} correct)\n", 100 * result.at("accuracy").get<double>(),
             with_commas(result.at("correct").get<int64_t>()));
  fmt::print("perplexity  {:.4f} per word, {:.4f} per token\n", result.at("target_perplexity").get<double>(),
             result.at("token_perplexity").get<double>());
}

int run_eval(EvalOptions& options) {
  if (options.text.empty() && options.lambada.empty())
    fail(ErrorKind::kUsage, "eval: got nothing to evaluate, expected --text or --lambada");
  const Stream stream = options.machine.stream();
  const Numerics numerics = model::find_profile(options.profile);
  const model::Model model = model::load(options.model, stream, model::ModelKind::kLanguage, numerics,
                                         options.weights.types(), options.adapter);
  for (const std::string& warning : model.warnings) note("warning: " + warning);
  catch_interrupts();
  end_by_itself();  // the scores so far are shown, even if reading the text takes long
  model::Runner runner(*model.lm, stream, *model.numerics);
  runner.stop_when(interrupted);
  Json results = Json::object();
  if (!options.text.empty()) results["text"] = eval_text(options, model, runner);
  if (!options.lambada.empty() && !interrupted()) results["lambada"] = eval_lambada(options, model, runner);
  set_last_will({});
  if (options.json) {
    fmt::print("{}\n", results.dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    if (results.contains("text")) print_text(results["text"]);
    if (results.contains("lambada")) print_lambada(results["lambada"]);
  }
  return interrupted() ? kInterruptedStatus : 0;
}

}  // namespace

std::function<int()> setup_eval(CLI::App& app) {
  const auto options = std::make_shared<EvalOptions>();
  app.add_option("model", options->model, "Model folder, a .gguf, or a .safetensors with its config.json beside it")
      ->required();
  app.add_option("--adapter", options->adapter, "Folder of an adapter, which is merged into the weights");
  app.add_option("--text", options->text, "Text to predict: likelihood per token and per byte");
  app.add_option("--lambada", options->lambada, "JSON lines with \"text\": accuracy of the last word");
  add_integer(app, "--window", options->window, 1, kMaxWindow, "Predictions of a window; each starts from zero");
  app.add_flag("--json", options->json, "Results as JSON");
  add_profile(app, "--profile", options->profile, "How numbers are handled");
  options->weights.add_options(app);
  options->weights.add_mmap(app);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options] { return run_eval(*options); };
}

}  // namespace carousel::cli
