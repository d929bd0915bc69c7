// SPDX-License-Identifier: Apache-2.0
// Flags, the file of the same names, and the recipe they make.
#include "carousel/cli/train_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "carousel/cli/options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/profile.h"
#include "carousel/text/unicode.h"
#include "carousel/train/schedule.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Options that say how to start, not what a run is.
const std::set<std::string> kNotKept = {"help", "config", "resume", "out", "dry-run", "find-lr", "threads", "device"};
const std::set<std::string> kPaths = {"model", "data", "valid", "target", "times", "valid-target", "valid-times"};

void add_data_options(CLI::App& app, TrainOptions& o) {
  app.add_option("--data", o.data,
                 "PATH[:WEIGHT] of text, .jsonl, .bin or .npy ids, or .csv or .npy features (no weight): a file, a "
                 "folder or a pattern; may be repeated");
  app.add_option("--valid", o.valid, "The same, for validation");
  add_number(app, "--valid-fraction", o.valid_fraction, 0, 0.5, "Documents that validation takes from --data");
  app.add_option("--target", o.target, "For features: the targets of each --data, file for file");
  app.add_option("--times", o.times, "For features: the times between rows of each --data, file for file");
  app.add_option("--valid-target", o.valid_target, "For features: the targets of each --valid, file for file");
  app.add_option("--valid-times", o.valid_times, "For features: the times between rows of each --valid, file for file");
  app.add_option("--separator", o.separator, "What ends a document of text (default: <|endoftext|>)");
  app.add_option("--key", o.key, "The key of .jsonl lines that holds the text or the messages");
  add_choice(app, "--ids", o.ids, {"u16", "u32"}, "Bare ids in .bin files");
  add_choice(app, "--loss-on", o.loss_on, {"answers", "all"}, "Of conversations: what counts");
  add_choice(app, "--order", o.order, {"shuffled", "sequential"}, "The order of rows");
}

void add_recipe_options(CLI::App& app, TrainOptions& o) {
  add_integer(app, "--steps", o.steps, 0, kMost, "Steps of the run");
  add_integer(app, "--tokens", o.tokens, 0, kMost, "The length of the run in tokens");
  add_number(app, "--epochs", o.epochs, 0, 1e9, "The length of the run in passes over the data");
  add_number(app, "--lr", o.lr, 0, kInfinity, "The highest learning rate");
  add_number(app, "--lr-min", o.lr_min, 0, 1, "The lowest one after warmup, as a fraction of --lr");
  add_choice(app, "--schedule", o.schedule, train::Schedule::names(), "The curve of the rate");
  app.add_option("--warmup", o.warmup, "Steps, or a share like 2%")->capture_default_str();
  app.add_option("--cooldown", o.cooldown, "Of wsd: steps, or a share")->capture_default_str();
  add_number(app, "--muon-lr", o.muon_lr, 0, kInfinity, "The highest rate of muon's matrices; it follows --schedule");
  app.add_option("--betas", o.betas, "Decay of both moments; the first is the momentum of sgd")->capture_default_str();
  add_number(app, "--eps", o.eps, 0, 1, "Added to the root of the second moment");
  add_number(app, "--weight-decay", o.decay, 0, 10, "Decay of the parameters that --decay names");
  add_choice(app, "--decay", o.decays, {"matrices", "paper"},
             "What decays: parameters with two or more dimensions, or the groups of the xLSTM paper of 2024");
  add_number(app, "--clip", o.clip, 0, kInfinity, "The largest norm of a gradient; 0: any");
  add_number(app, "--skip-spikes", o.skip_spikes, 0, kInfinity,
             "Skip a step whose gradient norm is so many deviations above its running mean; 0: none");
  app.add_flag("--find-lr", o.find_lr, "Train no model: raise the rate for 100 steps and print where the loss falls");
  add_integer(app, "--seed", o.seed, 0, std::numeric_limits<int64_t>::max(),
              "Seed of fresh parameters and adapters, of the order, and of dropout");
}

void add_tuning_options(CLI::App& app, TrainOptions& o) {
  app.add_option("--freeze", o.freeze,
                 "Pattern of parameters that stay as they are, by canonical or published names; may be repeated");
  const auto take_lora = [&o](const CLI::results_t& results) {
    o.lora = results.back();
    if (o.lora.empty()) fail(ErrorKind::kUsage, "--lora: got \"\", expected R or R:ALPHA");
    return true;
  };
  app.add_option("--lora", take_lora, "R[:ALPHA]: train an adapter of rank R alone (default of ALPHA: R)")
      ->type_name("TEXT");
  app.add_option(
      "--lora-targets", o.lora_targets,
      "Pattern of the ends of names of the projections it changes (default: all of blocks); may be repeated");
}

train::OptimiserOptions::Method method_of(const std::string& optim) {
  const std::vector<std::string>& names = train::method_names();
  return static_cast<train::OptimiserOptions::Method>(std::find(names.begin(), names.end(), optim) - names.begin());
}

/// train.json names the paths of a run, and JSON is UTF-8.
void check_utf8(const std::string& path) {
  if (text::valid_prefix(path) == path.size()) return;
  fail(ErrorKind::kUsage, "{}: the path is not UTF-8, expected one that train.json can hold",
       text::replace_invalid(path));
}

/// "0.9,0.95"
std::pair<float, float> parse_betas(const std::string& text) {
  const size_t comma = text.find(',');
  if (comma == std::string::npos)
    fail(ErrorKind::kUsage, "--betas: got \"{}\", expected two numbers like .9,.95", text);
  const double first = parse_number("--betas", text.substr(0, comma), 0, 1);
  const double second = parse_number("--betas", text.substr(comma + 1), 0, 1);
  const auto beta1 = static_cast<float>(first), beta2 = static_cast<float>(second);
  // The optimiser divides by 1 - beta, in f32.
  if (beta1 == 1 || beta2 == 1) {
    fail(ErrorKind::kUsage, "--betas: got \"{}\", expected numbers below 1, at most {}", text,
         std::nextafter(1.0f, 0.0f));
  }
  return {beta1, beta2};
}

std::string name_of(const CLI::Option& option) {
  return option.get_lnames().empty() ? "" : option.get_lnames().front();
}

std::string as_result(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  fail(ErrorKind::kInput, "{}: got {}, expected a string, a number or a boolean", where, brief(value));
}

/// Takes the results of an option that a file gave; errors name the file.
void run_callback(CLI::Option& option, const std::string& path) {
  try {
    option.run_callback();
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", path, error.what()));
  } catch (const CLI::ParseError&) {  // flags are parsed by the library, texts always fit
    fail(ErrorKind::kInput, "{}: --{}: got \"{}\", expected {}", path, name_of(option), option.results().back(),
         option.get_items_expected_max() == 0 ? "true or false" : "one value");
  }
}

/// A path that means the same from any folder. A weight behind it stays.
std::string absolute(const std::string& path) { return std::filesystem::absolute(path).lexically_normal().string(); }

}  // namespace

void TrainOptions::add_step_options(CLI::App& app) {
  add_integer(app, "--seq", seq, 1, kMost, "Tokens of a row");
  add_integer(app, "--batch", batch, 1, 1 << 20, "Rows of a step");
  app.add_option("--batch-ramp", batch_ramp, "In place of --batch: rows from a step on, like 128@0,256@2000");
  add_integer(app, "--micro-batch", micro_batch, 0, 1 << 20, "Rows computed at a time; 0: all of a step");
  app.add_flag("--carry-state", carry_state, "A document that a row cuts goes on from its detached state");
  app.add_flag("--recompute", recompute, "Keep the inputs of sublayers alone: less memory, more time, the same bits");
  add_choice(app, "--optim", optim, train::method_names(),
             "The optimiser; muon: of matrices inside blocks, all else is adamw's");
  add_number(app, "--dropout", dropout, 0, 1,
             "The share of elements that training drops from the embedding and from what each sublayer adds");
  add_choice(app, "--dtype", machine.compute, {"f32", "bf16"},
             "Products; bf16 rounds what they multiply; sums, weights, moments and states stay f32");
  add_profile(app, "--profile", profile,
              "How numbers are handled; one that rounds, or whose formulas have no gradient, is refused");
  add_tuning_options(app, *this);
}

train::StepShape TrainOptions::step() const {
  train::StepShape shape = train::StepShape::of(recipe(epochs > 0 ? kMost : 1), seq);  // the length does not matter
  shape.tuning = tuning();
  shape.numerics = model::training_numerics(model::find_profile(profile));
  return shape;
}

void TrainOptions::add_options(CLI::App& app) {
  app.add_option("--model", model, "Model folder to go on from, or a config.json to draw fresh parameters for");
  app.add_option("--out", out, "Folder of the run: checkpoints, logs, token caches");
  app.add_option("--resume", resume, "Folder of a run to go on with");
  app.add_option("--config", config, "JSON file of the same names; flags win");
  add_data_options(app, *this);
  add_step_options(app);
  add_recipe_options(app, *this);
  add_integer(app, "--save-every", save_every, 0, kMost, "Steps between checkpoints; 0: at the end alone");
  add_integer(app, "--keep", keep, 1, 1 << 20, "Checkpoints that are kept");
  app.add_flag("--save-best", save_best, "Keep the checkpoint with the lowest validation loss too");
  add_integer(app, "--eval-every", eval_every, 0, kMost, "Steps between validations; 0: at the end alone");
  add_integer(app, "--eval-rows", eval_rows, 1, kMost, "Rows of validation data that are used");
  add_integer(app, "--sample-every", sample_every, 0, kMost, "Steps between samples; 0: none");
  app.add_option("--sample-prompt", sample_prompt, "The text that samples continue, likeliest token by token");
  add_integer(app, "--sample-tokens", sample_tokens, 1, 1 << 20, "Tokens of a sample");
  add_integer(app, "--log-every", log_every, 1, kMost, "Steps between lines on standard error");
  app.add_flag("--dry-run", dry_run, "Say what would run, and end");
  app.add_option(
         "--device",
         [](const CLI::results_t& results) {
           if (results.back() == "cpu") return true;
           fail(ErrorKind::kUsage, "--device: got \"{}\", expected cpu, where carousel trains", results.back());
         },
         "Where the model is trained: cpu")
      ->type_name("NAME")
      ->default_str("cpu");
  machine.add_cpu_options(app);
  app.get_option("--threads")->description("Threads; 0: the physical cores, divided by the processes that share them");
}

void TrainOptions::read_config(CLI::App& app, const std::string& path) {
  const Json file = read_json_file(path, {size_t{1} << 20, 16});
  if (!file.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", path, brief(file));
  // train.json has paths as lists, and older versions kept all values of an option that was given more than once.
  const bool kept = app.count("--resume") > 0;
  for (const auto& [name, value] : file.items()) {
    CLI::Option* const option = app.get_option_no_throw("--" + name);
    if (option == nullptr || name == "config" || name == "resume" || name == "help") {
      fail(ErrorKind::kInput, "{}: \"{}\" is no option of train", path, name);
    }
    if (option->count() > 0) continue;
    const std::string where = fmt::format("{}: \"{}\"", path, name);
    if (value.is_array() && value.empty()) fail(ErrorKind::kInput, "{}: got [], expected one value or more", where);
    const bool alone = kept || (value.is_array() && value.size() == 1 && kPaths.count(name) != 0);
    if (value.is_array() && !alone && option->get_items_expected_max() <= 1) {
      fail(ErrorKind::kInput, "{}: got {}, expected one value", where, brief(value));
    }
    if (value.is_array()) {
      for (const Json& one : value) option->add_result(as_result(one, where));
    } else {
      option->add_result(as_result(value, where));
    }
    run_callback(*option, path);
  }
}

Json TrainOptions::resolved(const CLI::App& app) {
  Json out = Json::object();
  for (const CLI::Option* const option : app.get_options()) {
    const std::string name = name_of(*option);
    if (name.empty() || kNotKept.count(name) != 0) continue;
    std::vector<std::string> values = option->results();
    if (values.empty() && !option->get_default_str().empty()) values = {option->get_default_str()};
    if (values.empty()) continue;
    if (option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeLast) values = {values.back()};
    const std::vector<std::string> shipped = model::profile_names();
    const bool file = name == "profile" && std::find(shipped.begin(), shipped.end(), values.front()) == shipped.end();
    if (file || kPaths.count(name) != 0) std::transform(values.begin(), values.end(), values.begin(), absolute);
    out[name] = values.size() == 1 && kPaths.count(name) == 0 ? Json(values.front()) : Json(values);
  }
  return out;
}

model::Tuning TrainOptions::tuning() const {
  model::Tuning tuned;
  tuned.freeze = freeze;
  tuned.targets = lora_targets;
  tuned.base = absolute(model);
  if (lora.empty()) {
    if (!lora_targets.empty()) fail(ErrorKind::kUsage, "--lora-targets: only with --lora");
    return tuned;
  }
  const size_t colon = lora.find(':');
  tuned.rank = static_cast<int64_t>(parse_integer("--lora", lora.substr(0, colon), 1, 1 << 16));
  tuned.alpha = colon == std::string::npos ? static_cast<double>(tuned.rank)
                                           : parse_number("--lora", lora.substr(colon + 1), 0, 1e6);
  if (tuned.alpha == 0) fail(ErrorKind::kUsage, "--lora: got {}, expected an alpha above 0", lora);
  return tuned;
}

void TrainOptions::check() const {
  if (model.empty()) fail(ErrorKind::kUsage, "--model is missing: a model folder, or a config.json");
  if (data.empty()) fail(ErrorKind::kUsage, "--data is missing: the files to train on");
  if (out.empty()) fail(ErrorKind::kUsage, "--out is missing: the folder of the run");
  const int given = (steps > 0) + (tokens > 0) + (epochs > 0);
  if (given != 1) fail(ErrorKind::kUsage, "got {} of --steps, --tokens and --epochs, expected one of them", given);
  const bool validates = !valid.empty() || valid_fraction > 0;
  if (!validates && (eval_every > 0 || save_best)) {
    fail(ErrorKind::kUsage, "{}: no validation data, expected --valid or --valid-fraction",
         save_best ? "--save-best" : "--eval-every");
  }
  if (!sample_prompt.empty() && sample_every == 0 && resume.empty()) {  // a resumed run may leave samples out
    fail(ErrorKind::kUsage, "--sample-prompt: got it without --sample-every, expected both or none");
  }
  for (const auto* const paths : {&data, &target, &times, &valid, &valid_target, &valid_times}) {
    for (const std::string& path : *paths) check_utf8(path);
  }
  check_utf8(model);
  check_utf8(out);
  recipe(epochs > 0 ? int64_t{1} << 40 : 1);  // before long work; how many rows an epoch has is not known yet
}

train::BatchRamp TrainOptions::ramp() const {
  if (batch_ramp.empty()) return train::BatchRamp(batch);
  if (carry_state) {
    fail(ErrorKind::kUsage, "--batch-ramp: not with --carry-state, whose rows keep their places in the batch");
  }
  return train::BatchRamp::parse(batch_ramp);
}

train::Recipe TrainOptions::recipe(int64_t rows) const {
  train::Recipe recipe;
  recipe.batch = ramp();
  train::Schedule& curve = recipe.schedule;
  curve.kind = train::Schedule::kind_of(schedule);
  curve.lr = lr;
  curve.lr_min = lr_min;
  curve.warmup = train::Span::parse("--warmup", warmup);
  curve.cooldown = train::Span::parse("--cooldown", cooldown);
  curve.steps = std::max<int64_t>(steps, 1);
  if (tokens > 0) curve.steps = recipe.batch.steps(static_cast<double>(tokens) / static_cast<double>(seq));
  if (epochs > 0) curve.steps = recipe.batch.steps(epochs * static_cast<double>(rows));
  curve.check();
  if (static_cast<float>(eps) < std::numeric_limits<float>::min()) {
    fail(ErrorKind::kUsage, "--eps: got {}, expected a number above {}", eps, std::numeric_limits<float>::min());
  }
  const auto [beta1, beta2] = parse_betas(betas);
  recipe.optimiser = {beta1, beta2, static_cast<float>(eps), static_cast<float>(decay), static_cast<float>(clip)};
  recipe.optimiser.method = method_of(optim);
  if (decays == "paper") recipe.optimiser.decays = train::OptimiserOptions::Decays::kPaper;
  recipe.optimiser.muon_rate = static_cast<float>(muon_lr / lr);
  recipe.skip_spikes = skip_spikes;
  recipe.micro_batch = micro_batch;
  recipe.carry_state = carry_state;
  recipe.recompute = recompute;
  recipe.dropout = static_cast<float>(dropout);
  recipe.seed = static_cast<uint64_t>(seed);
  if (recipe.dropout >= 1) fail(ErrorKind::kUsage, "--dropout: got {}, expected a number below 1", dropout);
  return recipe;
}

}  // namespace carousel::cli
