// SPDX-License-Identifier: Apache-2.0
// What is at a path: checks that throw where the system refuses to tell.
#include "carousel/core/files.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "carousel/core/error.h"

namespace carousel {
namespace {

namespace fs = std::filesystem;

fs::file_status status_of(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::status_known(status)) fail(ErrorKind::kIo, "{}: cannot open: {}", path, error.message());
  return status;
}

}  // namespace

bool file_exists(const std::string& path) { return fs::exists(status_of(path)); }
bool is_folder(const std::string& path) { return fs::is_directory(status_of(path)); }

std::string link_target(const std::string& path) {
  constexpr int kMostLinks = 40;  // as the system follows
  std::string at = path;
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(fs::symlink_status(at, error)); ++i) {
    const fs::path next = fs::read_symlink(at, error);
    if (error) break;
    at = (next.is_absolute() ? next : fs::path(at).parent_path() / next).string();
  }
  return at;
}

bool is_null_device(const std::string& path) {
  struct stat given {
  }, null{};
  if (::stat(path.c_str(), &given) != 0 || ::stat("/dev/null", &null) != 0) return false;
  return S_ISCHR(given.st_mode) && S_ISCHR(null.st_mode) && given.st_rdev == null.st_rdev;
}

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator item(folder, error); !error && item != fs::directory_iterator(); item.increment(error)) {
    names.push_back(item->path().filename().string());
  }
  if (error) fail(ErrorKind::kIo, "{}: cannot list: {}", folder, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace carousel
