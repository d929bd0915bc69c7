// SPDX-License-Identifier: Apache-2.0
// Checks of output paths before a long run.
#include "carousel/cli/output_path.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/model/saved_state.h"

namespace carousel::cli {

namespace fs = std::filesystem;

void check_output_path(const std::string& path, const std::vector<std::string>& inputs) {
  std::error_code unknown;
  if (fs::exists(path, unknown) && !fs::is_regular_file(path, unknown)) {
    fail(ErrorKind::kIo, "{}: exists and is no regular file, expected one or none to write", path);
  }
  for (const std::string& input : inputs) {
    if (input.empty() || !fs::equivalent(input, path, unknown)) continue;
    fail(ErrorKind::kIo, "{}: the input, expected another file for the output", path);
  }
  const fs::path folder = fs::path(path).parent_path();
  if (access(folder.empty() ? "." : folder.c_str(), W_OK) != 0) {
    fail(ErrorKind::kIo, "{}: cannot write here: {}", path, std::strerror(errno));
  }
}

void check_outputs_differ(const std::string& path, const std::string& other) {
  std::error_code unknown;
  const fs::path place = fs::weakly_canonical(fs::absolute(path, unknown), unknown);
  if (fs::equivalent(path, other, unknown) || place == fs::weakly_canonical(fs::absolute(other, unknown), unknown)) {
    fail(ErrorKind::kIo, "{}: the file of another output, expected one for each", path);
  }
}

void check_save_path(const std::string& path) {
  if (is_null_device(path)) return;
  check_output_path(link_target(path));
  std::error_code unknown;
  if (fs::exists(path, unknown) && fs::file_size(path, unknown) > 0 && !model::looks_like_state(path)) {
    fail(ErrorKind::kIo, "{}: exists and is no saved state, expected one or none to write", path);
  }
}

}  // namespace carousel::cli
