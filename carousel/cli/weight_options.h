// SPDX-License-Identifier: Apache-2.0
// --weights and the types per part, for every command that loads a model to compute with it.
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
  /// Adds --type, which must be given, in place of --weights: for commands that write a model.
  void add_type(CLI::App& app);
  /// The types that the options give; auto is the file's own type. A block type given by --weights is for projections
  /// only: embeddings, head and gates keep their own type unless they are named. A mix has types for embeddings and
  /// head.
  model::WeightTypes types() const;
  /// Throws Error(kUsage) where a type is given for a part, and the model at `path` is no language model and has no
  /// matrix in that part which the type can hold.
  void check_parts(const std::string& path) const;

 private:
  void add_parts(CLI::App& app, const std::string& name);  // `name`: the option whose type the parts follow
};

/// Its name in lower case, as options spell it.
std::string weight_type_name(DType dtype);
/// The type of such a name; nothing for another one, as "auto".
std::optional<DType> weight_type_of(const std::string& name);

}  // namespace carousel::cli
