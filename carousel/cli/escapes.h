// SPDX-License-Identifier: Apache-2.0
// Escapes in texts given on the command line, as llama.cpp's tools read them: a shell has no easy way to say a newline.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace carousel::cli {

/// \n \t \r \\ \" \' and \xHH become what they stand for; every other backslash stays as it is.
std::string process_escapes(const std::string& text);

/// --no-escape, and what it decides.
struct Escapes {
  bool off = false;
  /// `which`: the options whose texts it is about, for the help.
  void add_option(CLI::App& app, const std::string& which);
  std::string read(const std::string& text) const { return off ? text : process_escapes(text); }
};

/// What the help says of an option that takes escapes.
inline constexpr const char* kTakesEscapes = R"(; \n \t \r \\ \" \' \xHH are escapes)";

}  // namespace carousel::cli
