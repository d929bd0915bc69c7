// SPDX-License-Identifier: Apache-2.0
// Looks at what is at a path. The system may refuse to tell, in a folder that the user may not enter, say. That does
// not mean that nothing is there: all of these then throw Error(kIo) naming the path and why.
#pragma once

#include <string>
#include <vector>

namespace carousel {

bool file_exists(const std::string& path);  // true for a file of any kind
bool is_folder(const std::string& path);
/// Where writing to `path` ends up: the target of a symbolic link, even if nothing is there yet; else `path`.
std::string link_target(const std::string& path);
bool is_null_device(const std::string& path);  // /dev/null, which takes anything
/// The names of all entries of a folder, sorted.
std::vector<std::string> names_in(const std::string& folder);

}  // namespace carousel
