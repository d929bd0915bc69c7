// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/scratch.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "carousel/core/error.h"

namespace carousel::cli {
namespace {

/// TMPDIR, or /tmp.
std::string scratch_folder() {
  const char* const folder = std::getenv("TMPDIR");
  return folder == nullptr || *folder == '\0' ? "/tmp" : folder;
}

}  // namespace

ScratchFolder::ScratchFolder() : path_(scratch_folder() + "/carousel-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) fail(ErrorKind::kIo, "{}: cannot make a folder there", scratch_folder());
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace carousel::cli
