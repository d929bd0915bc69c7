// SPDX-License-Identifier: Apache-2.0
// An option has several names; a message calls it by the one its reader typed.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

namespace carousel::cli {

/// `message` with every option of `app` that it names, outside quotes, under the name it was last given by in
/// `arguments`; names nobody typed stay.
std::string with_typed_names(const std::string& message, const CLI::App& app,
                             const std::vector<std::string>& arguments);

}  // namespace carousel::cli
