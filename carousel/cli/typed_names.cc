// SPDX-License-Identifier: Apache-2.0
// Finds the name under which the user gave each option, and puts it into messages.
#include "carousel/cli/typed_names.h"

#include <algorithm>
#include <cctype>
#include <map>

namespace carousel::cli {
namespace {

std::vector<std::string> names_of(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  return names;
}

// "--n-predict=3" and "-n3" name what "--n-predict" and "-n" do.
std::string name_in(const std::string& argument) {
  return argument.starts_with("--") ? argument.substr(0, argument.find('=')) : argument.substr(0, 2);
}

// From each name of an option that was typed to the name it was typed by.
std::map<std::string, std::string> typed_by(const CLI::App& app, const std::vector<std::string>& arguments) {
  std::map<std::string, std::string> out;
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string> names = names_of(*option);
    std::string typed;
    for (const std::string& argument : arguments) {
      if (std::find(names.begin(), names.end(), name_in(argument)) != names.end()) typed = name_in(argument);
    }
    if (typed.empty()) continue;
    for (const std::string& name : names) out[name] = typed;
  }
  return out;
}

bool in_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-'; }

}  // namespace

std::string with_typed_names(const std::string& message, const CLI::App& app,
                             const std::vector<std::string>& arguments) {
  const std::map<std::string, std::string> typed = typed_by(app, arguments);
  std::string out;
  bool quoted = false;
  for (size_t i = 0; i < message.size();) {
    size_t end = i + 1;
    const bool begins = message[i] == '-' && (i == 0 || message[i - 1] == ' ');
    if (begins && !quoted) {
      while (end < message.size() && in_name(message[end])) ++end;
    }
    if (message[i] == '"') quoted = !quoted;
    const auto known = typed.find(message.substr(i, end - i));
    out += known == typed.end() ? message.substr(i, end - i) : known->second;
    i = end;
  }
  return out;
}

}  // namespace carousel::cli
