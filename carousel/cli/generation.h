// SPDX-License-Identifier: Apache-2.0
// Shared by the commands that write text: the options for the model, the drawing of tokens, where they end and what is
// kept; and standard output, piece by piece.
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
  std::string model, adapter, save_state, load_state;
  std::string profile = "native";
  int64_t predict = -1;
  int64_t seed = -1;
  generate::SamplerParams sampler;
  std::vector<std::string> stop;  // the stop strings as they were typed
  Escapes escapes;                // for --stop and the texts that a command adds
  WeightOptions weights;
  Machine machine;

  /// Adds MODEL and --profile.
  void add_model(CLI::App& app);
  /// Adds -n, --seed, the sampler's options, --stop, and --no-escape, which also concerns the option `with_escapes`.
  void add_sampling(CLI::App& app, const std::string& with_escapes);
  void add_states(CLI::App& app);

  /// Loads the model and tells its warnings.
  model::Model load(const Stream& stream) const;
  /// A request with everything that these options set; the caller adds the prompt and the state.
  generate::Request request() const;
};

/// Standard output, written piece by piece. When its reader has gone, the output is closed; that is no error.
class Output {
 public:
  /// False when the reader has gone, or when a signal came and nobody reads at the moment. Throws Error(kIo).
  bool write(std::string_view text);
  /// Ends the line if one was begun.
  void end_line();
  bool closed() const { return closed_; }
  /// Whether write() has thrown.
  bool failed() const { return failed_; }

 private:
  bool closed_ = false;
  bool failed_ = false;
  bool ends_line_ = true;
};

}  // namespace carousel::cli
