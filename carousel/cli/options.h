// SPDX-License-Identifier: Apache-2.0
// Options with a range. All refuse a value in the same way: `--window: got "hot", expected an integer from 1 to
// 1048576`. The help shows the default, which is the variable's value when the option is declared.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace carousel::cli {

/// The variable must outlive the parse. A bad value throws Error(kUsage) while parsing.
CLI::Option* add_integer(CLI::App& app, const std::string& names, int64_t& value, int64_t min, int64_t max,
                         const std::string& help);
/// A finite number in [min, max]; an infinite max is no bound.
CLI::Option* add_number(CLI::App& app, const std::string& names, double& value, double min, double max,
                        const std::string& help);
CLI::Option* add_choice(CLI::App& app, const std::string& names, std::string& value,
                        const std::vector<std::string>& choices, const std::string& help);
/// Comma-separated integers.
CLI::Option* add_integers(CLI::App& app, const std::string& names, std::vector<int64_t>& values, int64_t min,
                          int64_t max, const std::string& help);

/// A numeric profile, by name or file; the help names the shipped ones.
CLI::Option* add_profile(CLI::App& app, const std::string& names, std::string& value, const std::string& help);

/// Throws Error(kUsage) unless `text` is an integer in [min, max]. `option` begins the message.
int64_t parse_integer(const std::string& option, const std::string& text, int64_t min, int64_t max);
/// The same for a finite number.
double parse_number(const std::string& option, const std::string& text, double min, double max);
/// Whether --out names a GGUF file, not a folder, told by its ending. Throws Error(kUsage) for an ending in capitals:
/// no command would recognise such a model.
bool is_gguf_name(const std::string& out);

}  // namespace carousel::cli
