// SPDX-License-Identifier: Apache-2.0
// Escapes in texts on the command line, as llama.cpp's tools read them: a newline is hard to write in a shell.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace carousel::cli {

/// Replaces \n \t \r \\ \" \' and \xHH by the characters they stand for; every other backslash is left alone.
std::string process_escapes(const std::string& text);

/// --no-escape, and the reading of texts that depends on it.
struct Escapes {
  bool off = false;
  /// `which` names the options whose texts it concerns, for the help.
  void add_option(CLI::App& app, const std::string& which);
  std::string read(const std::string& text) const { return off ? text : process_escapes(text); }
};

/// The help's words for an option that takes escapes.
inline constexpr const char* kTakesEscapes = R"(; \n \t \r \\ \" \' \xHH are escapes)";

}  // namespace carousel::cli
