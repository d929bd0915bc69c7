// SPDX-License-Identifier: Apache-2.0
// carousel init: a freshly initialised model from a config.
#include <fmt/format.h>

#include <cstdio>
#include <limits>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/dtype.h"
#include "carousel/core/error.h"
#include "carousel/model/load.h"
#include "carousel/model/profile.h"

namespace carousel::cli {
namespace {

struct InitOptions {
  std::string config, out;
  std::string dtype = "f32";
  std::string profile = "native";
  int64_t seed = 0;
};

int run_init(const InitOptions& options) {
  const DType dtype = *weight_type_of(options.dtype);
  catch_interrupts();
  Progress bar("%", 100);
  const auto go_on = [&](double done) {
    bar.update(static_cast<int64_t>(100 * done));
    return may_go_on(done);
  };
  model::write_initialised(options.config, static_cast<uint64_t>(options.seed), dtype, options.out, go_on,
                           model::find_profile(options.profile));
  note(fmt::format("{}: initialised from seed {}", options.out, options.seed));
  return 0;
}

}  // namespace

std::function<int()> setup_init(CLI::App& app) {
  const auto options = std::make_shared<InitOptions>();
  app.add_option("config", options->config, "config.json, or a folder that holds one")->required();
  app.add_option("--out", options->out, "Folder to write; must be new or empty")->required();
  add_integer(app, "--seed", options->seed, 0, std::numeric_limits<int64_t>::max(), "Seed; values depend on it alone");
  add_choice(app, "--dtype", options->dtype, {"f32", "bf16", "f16"}, "Type the weights are stored in");
  add_profile(app, "--profile", options->profile, "Whose initial values are drawn");
  return [options] { return run_init(*options); };
}

}  // namespace carousel::cli
