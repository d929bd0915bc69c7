// SPDX-License-Identifier: Apache-2.0
// What is at a path. The system may refuse to tell, in a folder the user may not enter, say: that is no "nothing", and
// all of these throw Error(kIo) naming the path and why.
#pragma once

#include <string>
#include <vector>

namespace carousel {

bool file_exists(const std::string& path);  // of any kind
bool is_folder(const std::string& path);
/// Where writing to `path` ends up: the target of a symbolic link, also of one to nothing yet; else `path`.
std::string link_target(const std::string& path);
bool is_null_device(const std::string& path);  // /dev/null, which takes anything
/// Names of what is in a folder, sorted.
std::vector<std::string> names_in(const std::string& folder);

}  // namespace carousel
