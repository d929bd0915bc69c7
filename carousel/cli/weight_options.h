// SPDX-License-Identifier: Apache-2.0
// --weights and its choices per part, of every command that loads a model to compute with it.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "carousel/model/params.h"

namespace carousel::cli {

struct WeightOptions {
  std::string weights = "auto", embeddings = "auto", head = "auto", gates = "auto";
  bool mapped = false;
  void add_mmap(CLI::App& app);
  void add_options(CLI::App& app);
  /// For what is written: --type, which must be given, in place of --weights.
  void add_type(CLI::App& app);
  /// auto: the file's own type. A block type given by --weights is the projections' alone; embeddings, head and gates
  /// then keep their own, too, unless they are named.
  model::WeightTypes types() const;
  /// Throws Error(kUsage) where a type is given for a part of which the model at `path`, no language model, has no
  /// matrix that can be held in it.
  void check_parts(const std::string& path) const;

 private:
  void add_parts(CLI::App& app, const std::string& name);  // of the option whose type the others follow
};

/// Its name in lower case, as options spell it.
std::string weight_type_name(DType dtype);

}  // namespace carousel::cli
