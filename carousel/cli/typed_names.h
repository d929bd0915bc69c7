// SPDX-License-Identifier: Apache-2.0
// An option has several names; a message calls it by the one its reader typed.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace carousel::cli {

/// `message` with its names of options of `app` (outside quotes) replaced by the names that were last typed for them in
/// `arguments`. A name of an option that was not typed is left alone.
std::string with_typed_names(const std::string& message, const CLI::App& app,
                             const std::vector<std::string>& arguments);

}  // namespace carousel::cli
