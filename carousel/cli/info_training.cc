// SPDX-License-Identifier: Apache-2.0
// The parts of a training step's memory, measured on meta and printed.
#include "carousel/cli/info_training.h"

#include <fmt/format.h>

#include <string>

#include "carousel/cli/progress.h"
#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/train/footprint.h"

namespace carousel::cli {
namespace {

constexpr const char* kGroup = "With --train, as of carousel train";

/// A part of the memory: its name in the table, its key, and whether it is shown where it is empty.
struct Part {
  const char *name, *key;
  bool always;
};
constexpr Part kParts[] = {
    {"parameters", "master_bytes", true}, {"gradients", "gradient_bytes", true},
    {"moments", "moment_bytes", true},    {"packed", "packed_bytes", true},
    {"adapted sums", "sum_bytes", false}, {"activations", "activation_bytes", true},
    {"update", "update_bytes", false},    {"carried states", "state_bytes", false},
};

}  // namespace

void add_training_options(CLI::App& app, TrainOptions& options) {
  const size_t others = app.get_options().size();
  options.add_step_options(app);
  const std::vector<CLI::Option*> all = app.get_options([](const CLI::Option*) { return true; });
  for (size_t i = others; i < all.size(); ++i) all[i]->group(kGroup);
}

void refuse_training_options(const CLI::App& app) {
  for (const CLI::Option* const option : app.get_options()) {
    if (option->get_group() != kGroup || option->count() == 0) continue;
    fail(ErrorKind::kUsage, "{}: got it without --train, expected both or none", option->get_name());
  }
}

Json describe_training(const model::ModelFiles& files, const Stream& stream, const TrainOptions& options) {
  train::StepShape step = options.step();
  Stream training = stream;
  training.compute = options.machine.compute == "bf16" ? Compute::kBF16 : Compute::kF32;
  const train::Footprint footprint = train::measure_footprint(files, training, step);
  return {{"batch", step.batch},
          {"micro_batch", step.micro_batch},
          {"seq", step.seq},
          {"recompute", step.recompute},
          {"carry_state", step.carry_state},
          {"dropout", options.dropout},
          {"optim", options.optim},
          {"dtype", options.machine.compute},
          {"threads", training.threads()},
          {"isa", cpu::isa_name(training.isa)},
          {"master_bytes", footprint.masters},
          {"gradient_bytes", footprint.gradients},
          {"moment_bytes", footprint.moments},
          {"packed_bytes", footprint.packed},
          {"sum_bytes", footprint.sums},
          {"activation_bytes", footprint.activations},
          {"update_bytes", footprint.update},
          {"state_bytes", footprint.states},
          {"bytes", footprint.total()}};
}

void print_training(const Json& training) {
  const auto size = [&](const char* key) { return in_binary_units(training.at(key).get<double>()); };
  const auto micro = training.at("micro_batch").get<int64_t>();
  fmt::print("  training     {} ({} bytes) for {} rows of {} tokens{}{}, on {} threads\n", size("bytes"),
             with_commas(training.at("bytes").get<int64_t>()), training.at("batch").get<int64_t>(),
             with_commas(training.at("seq").get<int64_t>()), micro > 0 ? fmt::format(", {} at a time", micro) : "",
             training.at("recompute").get<bool>() ? ", recomputed" : "", training.at("threads").get<int64_t>());
  for (const Part& part : kParts) {
    if (part.always || training.at(part.key).get<int64_t>() > 0) {
      fmt::print("    {:<16} {:>15}\n", part.name, size(part.key));
    }
  }
}

}  // namespace carousel::cli
