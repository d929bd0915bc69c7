// SPDX-License-Identifier: Apache-2.0
// Where a command will write: what can be known to fail after a long run is found before it.
#pragma once

#include <string>

namespace carousel::cli {

/// Throws Error(kIo) where no file can be written at `path`: its folder is absent or closed, what is there is no file,
/// or is `input`, which the command reads.
void check_output_path(const std::string& path, const std::string& input = "");
/// Also where there is a file that is no saved state.
void check_save_path(const std::string& path);

}  // namespace carousel::cli
