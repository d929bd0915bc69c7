// SPDX-License-Identifier: Apache-2.0
// What the commands that write text share: the options that say which model, how its tokens are drawn, where they end
// and what is kept; and standard output, piece by piece.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/cli/compute_options.h"
#include "carousel/cli/escapes.h"
#include "carousel/cli/weight_options.h"
#include "carousel/generate/batcher.h"
#include "carousel/model/load.h"

namespace carousel::cli {

/// Options of `generate` and `chat`. It must outlive the parse.
struct GenerationOptions {
  std::string model, save_state, load_state;
  std::string profile = "native";
  int64_t predict = -1;
  int64_t seed = -1;
  generate::SamplerParams sampler;
  std::vector<std::string> stop;  // as typed
  Escapes escapes;                // of --stop and of what a command adds
  WeightOptions weights;
  Machine machine;

  /// The model, and --profile.
  void add_model(CLI::App& app);
  /// -n, --seed, the sampler's, --stop and --no-escape, which is also about the option `with_escapes`.
  void add_sampling(CLI::App& app, const std::string& with_escapes);
  void add_states(CLI::App& app);

  /// Loads the model and tells its warnings.
  model::Model load(const Stream& stream) const;
  /// A request with all that these options say of it; the prompt and the state are the caller's.
  generate::Request request() const;
};

/// Standard output, written piece by piece. Once nobody reads it any more it is closed, which is no error.
class Output {
 public:
  /// False when nobody reads, or a signal came and nobody reads at the moment. Throws Error(kIo).
  bool write(std::string_view text);
  /// Ends the line, if one is begun.
  void end_line();
  bool closed() const { return closed_; }
  /// An error was thrown.
  bool failed() const { return failed_; }

 private:
  bool closed_ = false;
  bool failed_ = false;
  bool ends_line_ = true;
};

}  // namespace carousel::cli
