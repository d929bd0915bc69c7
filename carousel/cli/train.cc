// SPDX-License-Identifier: Apache-2.0
// carousel train: a model from data. The steps are train/trainer's, the files of a run train/checkpoint's and
// train/run_log's.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "carousel/cli/command.h"
#include "carousel/cli/job.h"
#include "carousel/cli/left_as_found.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/run_lock.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/train_checks.h"
#include "carousel/cli/train_input.h"
#include "carousel/cli/train_options.h"
#include "carousel/cli/train_sample.h"
#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/parallel.h"
#include "carousel/formats/new_file.h"
#include "carousel/model/profile.h"
#include "carousel/train/checkpoint.h"
#include "carousel/train/footprint.h"
#include "carousel/train/rate_search.h"
#include "carousel/train/run_log.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Where a run keeps its options, as flags and files gave them.
std::string options_path(const std::string& out) { return out + "/" + train::kRunOptions; }

/// A run from its first or resumed step to its end.
class TrainRun {
 public:
  /// from: the model, or a checkpoint of all of it. tuning: what is trained, with a checkpoint's adapter.
  TrainRun(TrainOptions& options, const std::string& from, const model::Tuning& tuning, const Json& resolved)
      : options_(options),
        stream_(options.machine.stream()),
        model_(load(options, from, tuning, stream_)),
        input_(options, from, model_, false),
        recipe_(options.recipe(input_.batches().rows())),
        trainer_(model_, stream_, input_.batches(), recipe_, job()),
        resolved_(resolved) {
    for (const std::string& warning : model_.model.warnings) note("carousel: warning: " + warning);
    if (options.sample_every > 0) sample_prompt(model_.model, options.sample_prompt);  // refused before the first step
    check_targets(input_.batches(), input_.batches().rows(), "--data");
    if (!options.valid.empty() || options.valid_fraction > 0) {
      valid_.emplace(options, from, model_, true);
      check_targets(valid_->batches(), std::min(options.eval_rows, valid_->batches().rows()), "--eval-rows");
    }
    check_memory(from, tuning);
  }

  /// checkpoint: where the run goes on; empty: it begins.
  int run(const std::string& checkpoint);

 private:
  static bool speaks() { return job().rank() == 0; }
  static void note(const std::string& line) {
    if (speaks()) cli::note(line);
  }
  void check_same();
  void begin(const std::string& checkpoint);
  static train::StepShape step_of(const TrainOptions& options, const model::Tuning& tuning);
  static model::TrainedModel load(const TrainOptions& options, const std::string& from, const model::Tuning& tuning,
                                  const Stream& stream);
  void check_memory(const std::string& from, const model::Tuning& tuning);
  bool take_step();
  void save();
  void prune();
  bool validate(int64_t step);
  void compare_with_best(int64_t step, double loss);
  bool catch_up();
  int stop(int64_t step);
  void show(const train::StepReport& report);
  void sample(int64_t step);
  int find_rate();
  void describe();

  const TrainOptions& options_;
  Stream stream_;
  model::TrainedModel model_;
  TrainInput input_;
  std::optional<TrainInput> valid_;
  train::Recipe recipe_;
  train::Trainer trainer_;
  train::RunState state_;
  std::unique_ptr<train::RunLog> log_;
  Json resolved_;
  Clock::time_point start_;
  int64_t first_step_ = 0, first_tokens_ = 0;  // where this process began
};

void TrainRun::describe() {
  const int64_t parameters = model_.params->gradients().count();
  note(fmt::format("{} steps of {} rows, {} rows an epoch; {} trained parameters", with_commas(recipe_.schedule.steps),
                   options_.batch_ramp.empty() ? std::to_string(options_.batch) : options_.batch_ramp,
                   with_commas(input_.batches().rows()), with_commas(parameters)));
  if (job().size() > 1) {
    note(fmt::format("{} processes; this one has {} threads", job().size(), options_.machine.threads));
  }
}

/// Processes on other machines may have been given other files.
void TrainRun::check_same() {
  const std::string mine =
      fmt::format("{} parameters and {} rows of data", model_.params->masters().count(), input_.batches().rows());
  const std::string expected = job().from_first(mine);
  if (mine != expected) {
    fail(ErrorKind::kInput, "process {} has {}, expected {} as process 0 has", job().rank(), mine, expected);
  }
}

train::StepShape TrainRun::step_of(const TrainOptions& options, const model::Tuning& tuning) {
  train::StepShape step = options.step();
  step.tuning = tuning;  // with a checkpoint's adapter
  step.rank = job().rank();
  step.processes = job().size();
  return step;
}

model::TrainedModel TrainRun::load(const TrainOptions& options, const std::string& from, const model::Tuning& tuning,
                                   const Stream& stream) {
  const train::StepShape step = step_of(options, tuning);
  check_model_memory(from, stream, step);
  return model::load_trained(from, stream, static_cast<uint64_t>(options.seed), tuning, step.numerics);
}

/// The step is measured with sequences of the first rows' lengths.
void TrainRun::check_memory(const std::string& from, const model::Tuning& tuning) {
  train::StepShape step = step_of(options_, tuning);
  const auto [first, end] = job().span_of(step.batch);
  const int64_t rows = step.micro_batch > 0 ? step.micro_batch : step.batch;
  step.lengths = input_.batches().take(0, std::clamp(end - first, int64_t{1}, rows)).lengths;
  check_step_memory(from, stream_, step);
}

void TrainRun::begin(const std::string& checkpoint) {
  if (!checkpoint.empty()) {
    state_ = train::load_checkpoint(checkpoint, trainer_);
    note(fmt::format("{}: going on after step {}", checkpoint, trainer_.optimiser().steps()));
  }
  first_step_ = trainer_.optimiser().steps();
  first_tokens_ = trainer_.tokens_seen();
  start_ = Clock::now();
  if (!speaks()) return;
  if (!options_.resume.empty()) prune();                  // a killed run leaves what it was writing or about to remove
  if (!trainer_.done()) check_space(options_, trainer_);  // before anything says that a run is there
  const std::string resolved = resolved_.dump(2) + "\n";  // with what flags changed in a resumed run
  formats::NewFile file(options_path(options_.out));      // on the disk before checkpoints depend on it
  file.put(resolved.data(), resolved.size(), 0);
  file.finish();
  log_ = std::make_unique<train::RunLog>(options_.out, first_step_);
}

void TrainRun::save() {
  if (log_ != nullptr) log_->flush();
  train::save_checkpoint(options_.out, trainer_, state_);
  if (speaks()) prune();
}

void TrainRun::prune() {
  train::prune_checkpoints(options_.out, options_.keep, options_.save_best ? state_.best_step : 0);
}

/// Returns false where a signal came first: a run that goes on from here validates first of all.
bool TrainRun::validate(int64_t step) {
  train::Batches& data = valid_->batches();
  const std::optional<double> loss = trainer_.evaluate(data, std::min(options_.eval_rows, data.rows()), interrupted);
  state_.unvalidated = !loss;
  if (!loss) return false;
  const std::vector<train::Measure> measures = {{"valid_loss", *loss}};
  if (log_ != nullptr) log_->add(step, measures);
  note(fmt::format("step {}: validation loss {:.4f}", step, *loss));
  compare_with_best(step, *loss);
  return true;
}

void TrainRun::compare_with_best(int64_t step, double loss) {
  if (!std::isfinite(loss)) return;  // never the best
  if (state_.best_step > 0 && loss >= state_.best) return;
  state_ = {loss, step};
  if (options_.save_best) save();
}

/// The validation that was interrupted before the run was resumed. A run that was killed meanwhile may have logged it.
bool TrainRun::catch_up() {
  if (!valid_) state_.unvalidated = false;  // nothing is left to validate with
  if (!state_.unvalidated) return true;
  std::string logged;
  for (const train::LogLine& line : speaks() ? train::read_log(options_.out) : std::vector<train::LogLine>()) {
    for (const train::Measure& measure : line.measures) {
      if (line.step == first_step_ && measure.name == "valid_loss") logged = fmt::format("{}", measure.value);
    }
  }
  logged = job().from_first(logged);
  if (logged.empty() && !validate(first_step_)) return false;
  state_.unvalidated = false;
  if (!logged.empty()) compare_with_best(first_step_, std::stod(logged));
  if (log_ != nullptr) log_->flush();
  train::rewrite_run(options_.out, trainer_, state_);
  return true;
}

void TrainRun::show(const train::StepReport& report) {
  if (!speaks()) return;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double rate = static_cast<double>(trainer_.tokens_seen() - first_tokens_) / seconds;
  std::vector<train::Measure> measures = {{"loss", report.loss},
                                          {"lr", report.rate},
                                          {"grad_norm", report.norm},
                                          {"tokens", static_cast<double>(trainer_.tokens_seen())},
                                          {"tokens_per_second", rate}};
  if (report.skipped) measures.push_back({"skipped", 1});
  log_->add(report.step, measures);
  if (report.skipped) {
    note(fmt::format("step {}: skipped, the norm {:.3f} is a spike above {:.3f}", report.step, report.norm,
                     trainer_.norms().mean));
  }
  if (report.step % options_.log_every != 0 && !trainer_.done()) return;
  const auto steps = static_cast<double>(report.step - first_step_);
  const auto left = static_cast<int64_t>(seconds / steps * static_cast<double>(recipe_.schedule.steps - report.step));
  const std::string loss = std::isnan(report.loss) ? "-" : fmt::format("{:.4f}", report.loss);  // no target counts
  note(fmt::format("step {}/{}: loss {}, lr {:.3g}, norm {:.3f}, {:.0f} tok/s, {}:{:02}:{:02} left", report.step,
                   recipe_.schedule.steps, loss, report.rate, report.norm, rate, left / 3600, left / 60 % 60,
                   left % 60));
}

/// Continues --sample-prompt, to standard error and the log.
void TrainRun::sample(int64_t step) {
  if (speaks()) {
    try {
      const std::string text = continue_text(model_.model, stream_, options_.sample_prompt, options_.sample_tokens);
      log_->add(step, "sample", text);
      note(fmt::format("step {}: {}", step, options_.sample_prompt + text));
    } catch (const Error& error) {  // no reason to lose the run
      note(fmt::format("carousel: warning: step {}: no sample: {}", step, error.what()));
    }
  }
  job().wait();
}

/// Raises the rate step by step; the model is not kept.
int TrainRun::find_rate() {
  train::RateSearch search;
  while (!search.done()) {
    const double rate = search.rate();
    try {
      const double loss = trainer_.step_at(rate).loss;
      if (!std::isnan(loss)) search.add(loss);  // a step without a target says nothing of the rate
    } catch (const Error&) {                    // a loss that is not finite ends the search, in all processes alike
      if (search.points().size() < 2 || !job().fails_with_all()) throw;
      break;
    }
    if (job().any(interrupted())) return kInterruptedStatus;
  }
  for (const train::RateSearch::Point& point : search.points()) {
    note(fmt::format("lr {:.3g}: loss {:.4f}", point.rate, point.loss));
  }
  if (speaks()) fmt::print("{:.3g}\n", search.valley());
  return 0;
}

/// Returns whether the run may go on: false after a signal, once the state is saved.
bool TrainRun::take_step() {
  const train::StepReport report = trainer_.step();
  show(report);
  const bool ends = trainer_.done();
  const auto is_due = [&](int64_t every) { return ends || (every > 0 && report.step % every == 0); };
  if (options_.sample_every > 0 && is_due(options_.sample_every)) sample(report.step);
  // Validation may save: the log comes first.
  const bool validated = !valid_ || !is_due(options_.eval_every) || validate(report.step);
  if (is_due(options_.save_every) || !validated) save();
  if (!validated) return false;
  if (!job().any(interrupted()) || ends) return true;  // a signal to one process is one to all
  save();
  return false;
}

/// Runs a part of a step, whose errors of files name the step; others name it where it matters.
template <class Part>
bool in_step(int64_t step, const Part& part) {
  set_step(step);
  try {
    return part();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo) throw;
    throw Error(error.kind(), fmt::format("step {}: {}", step, error.what()));
  }
}

int TrainRun::stop(int64_t step) {
  note(fmt::format("interrupted after step {}; go on with: carousel train --resume {}", step, options_.out));
  return kInterruptedStatus;
}

int TrainRun::run(const std::string& checkpoint) {
  describe();
  check_same();
  if (options_.dry_run) return 0;
  if (options_.find_lr) return find_rate();
  begin(checkpoint);
  catch_interrupts();
  if (job().size() > 1) catch_too(SIGUSR1);  // launchers hand it on, and wait for what is done about it
  end_by_itself();
  if (!in_step(first_step_, [&] { return catch_up(); })) return stop(first_step_);
  while (!trainer_.done()) {
    const int64_t step = trainer_.optimiser().steps() + 1;
    if (!in_step(step, [&] { return take_step(); })) return stop(step);
  }
  set_step(0);
  note(fmt::format("{}: trained", train::checkpoint_folder(options_.out, trainer_.optimiser().steps())));
  return 0;
}

int run_train(CLI::App& app, TrainOptions& options) {
  const bool resumed = !options.resume.empty();
  if (resumed) {
    if (!options.out.empty()) fail(ErrorKind::kUsage, "--out: not with --resume, which names the folder of the run");
    options.out = options.resume;
    if (!file_exists(options_path(options.out))) {
      fail(ErrorKind::kInput, "{}: no run to go on with (train.json is missing)", options.out);
    }
    TrainOptions::read_config(app, options_path(options.out));
  } else if (!options.config.empty()) {
    TrainOptions::read_config(app, options.config);
  }
  // These throw for what would else be refused after the data is read.
  model::training_numerics(model::find_profile(options.profile));
  options.ramp();
  if (options.find_lr) {
    options.tokens = 0;
    options.epochs = 0;
    options.steps = train::RateSearch::kSteps;
    options.warmup = options.cooldown = "0";  // the search has its own curve
  }
  options.check();
  if (!resumed && !options.find_lr && file_exists(options_path(options.out))) {
    fail(ErrorKind::kInput, "{}: a run is there already; --resume goes on with it", options.out);
  }
  const bool is_run = !options.dry_run && !options.find_lr;
  std::optional<LeftAsFound> left;
  if (!is_run) catch_interrupts();                              // a run heeds them once it can save
  if (!is_run && job().rank() == 0) left.emplace(options.out);  // before another process makes the folder
  // Without a checkpoint a resumed run begins again.
  const std::string checkpoint = job().from_first(resumed ? train::latest_checkpoint(options.out).value_or("") : "");
  if (!checkpoint.empty()) check_same_model(options.model, options_path(options.out));
  model::Tuning tuning = options.tuning();
  std::string from = options.model;
  if (!checkpoint.empty()) (tuning.rank > 0 ? tuning.adapter : from) = checkpoint;
  std::error_code error;
  fs::create_directories(options.out, error);
  if (error) fail(ErrorKind::kIo, "{}: cannot be created: {}", options.out, error.message());
  std::optional<RunLock> lock;  // of all processes
  if (left) {
    left->begin();
  } else if (job().rank() == 0) {
    lock.emplace(options.out);
  }
  if (job().size() > 1 && options.machine.threads == 0) {
    options.machine.threads = std::max(1, physical_cores() / job().sharing_cores());
  }
  TrainRun run(options, from, tuning, TrainOptions::resolved(app));
  const int status = run.run(checkpoint);
  if (is_run) return status;
  if (!job().any(interrupted())) return status;  // a meeting: all have read the caches
  if (job().rank() == 0) note_error("interrupted");
  return kInterruptedStatus;
}

}  // namespace

std::function<int()> setup_train(CLI::App& app) {
  join_job();  // before options are read: an error in them is one of all processes
  const auto options = std::make_shared<TrainOptions>();
  options->add_options(app);
  return [options, &app] { return run_train(app, *options); };
}

}  // namespace carousel::cli
