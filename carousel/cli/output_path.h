// SPDX-License-Identifier: Apache-2.0
// Checks of the place where a command will write: a failure that can be foreseen is found before a long run.
#pragma once

#include <string>
#include <vector>

namespace carousel::cli {

/// Throws Error(kIo) where no file can be written at `path`: its folder is absent or closed, `path` is no file, or it
/// is one of `inputs`, which the command reads. An empty name is no input.
void check_output_path(const std::string& path, const std::vector<std::string>& inputs = {});
/// Throws Error(kIo) where two names mean one file, there or not: a command would write both results to it.
void check_outputs_differ(const std::string& path, const std::string& other);
/// check_output_path, which also throws for a file that is no saved state.
void check_save_path(const std::string& path);

}  // namespace carousel::cli
