// SPDX-License-Identifier: Apache-2.0
// carousel merge: a base model and an adapter to one model. The sums are model/merged's.
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/model/merged.h"

namespace carousel::cli {
namespace {

struct MergeOptions {
  std::string base, adapter, out;
  std::string dtype = "auto";
  Machine machine;
};

int run_merge(MergeOptions& options) {
  const Stream stream = options.machine.stream();
  const std::optional<DType> dtype = weight_type_of(options.dtype);
  catch_interrupts();
  Progress bar("%", 100);
  model::write_merged(options.base, options.adapter, options.out, stream, dtype, [&](double done) {
    bar.update(static_cast<int64_t>(100 * done));
    return may_go_on(done);
  });
  note(fmt::format("{}: merged from {} and {}", options.out, options.base, options.adapter));
  return 0;
}

}  // namespace

std::function<int()> setup_merge(CLI::App& app) {
  const auto options = std::make_shared<MergeOptions>();
  app.add_option("base", options->base, "Model folder that the adapter was trained for")->required();
  app.add_option("adapter", options->adapter, "Folder with adapter_config.json and adapter_model.safetensors")
      ->required();
  app.add_option("--out", options->out, "Folder to write, which must be new or empty")->required();
  add_choice(app, "--dtype", options->dtype, {"auto", "f32", "bf16", "f16"},
             "Type of the floats; auto: f32 for sums, the base's for the rest");
  options->machine.add_cpu_options(app);
  return [options] { return run_merge(*options); };
}

}  // namespace carousel::cli
