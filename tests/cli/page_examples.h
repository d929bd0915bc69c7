// SPDX-License-Identifier: Apache-2.0
// The commands that a page of the documentation shows, and the output below each, for tests that run them.
#pragma once

#include <sstream>
#include <string>
#include <vector>

namespace carousel::cli {

struct Example {
  std::string command;
  std::string output;  // the lines below it; empty: not shown
};

/// Those of the ```console blocks of `page`.
inline std::vector<Example> examples(const std::string& page) {
  std::vector<Example> out;
  std::istringstream lines(page);
  bool console = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      console = line == "```console";
    } else if (console && line.starts_with("$ ")) {
      out.push_back({line.substr(2), ""});
    } else if (console && !out.empty()) {
      out.back().output += line + "\n";
    }
  }
  return out;
}

inline std::string replace_all(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

}  // namespace carousel::cli
