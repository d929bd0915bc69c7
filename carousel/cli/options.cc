// SPDX-License-Identifier: Apache-2.0
// Declares options with ranges, and parses their values.
#include "carousel/cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/model/profile.h"

namespace carousel::cli {
namespace {

// The last name of "-n,--predict": what messages call the option.
std::string last_name(const std::string& names) {
  const size_t comma = names.rfind(',');
  return comma == std::string::npos ? names : names.substr(comma + 1);
}

// An option whose text is read by `read`, which throws what is wrong with it.
template <class Read>
CLI::Option* add_text(CLI::App& app, const std::string& names, const std::string& help, const std::string& type,
                      const std::string& shown, Read read) {
  CLI::Option* option = app.add_option(
      names,
      [read](const CLI::results_t& results) {
        read(results.back());
        return true;
      },
      help);
  option->type_name(type)->default_str(shown)->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  return option;
}

}  // namespace

int64_t parse_integer(const std::string& option, const std::string& text, int64_t min, int64_t max) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || value < min || value > max) {
    fail(ErrorKind::kUsage, "{}: got \"{}\", expected an integer from {} to {}", option, text, min, max);
  }
  return value;
}

CLI::Option* add_integer(CLI::App& app, const std::string& names, int64_t& value, int64_t min, int64_t max,
                         const std::string& help) {
  const std::string name = last_name(names);
  return add_text(app, names, help, "INT", std::to_string(value),
                  [&value, name, min, max](const std::string& text) { value = parse_integer(name, text, min, max); });
}

double parse_number(const std::string& option, const std::string& text, double min, double max) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && stopped == end && std::isfinite(value) && value >= min && value <= max) return value;
  std::string range;
  if (std::isfinite(min))
    range = std::isfinite(max) ? fmt::format(" from {} to {}", min, max) : fmt::format(" >= {}", min);
  fail(ErrorKind::kUsage, "{}: got \"{}\", expected a number{}", option, text, range);
}

CLI::Option* add_number(CLI::App& app, const std::string& names, double& value, double min, double max,
                        const std::string& help) {
  const std::string name = last_name(names);
  return add_text(app, names, help, "FLOAT", fmt::format("{}", value),
                  [&value, name, min, max](const std::string& text) { value = parse_number(name, text, min, max); });
}

CLI::Option* add_choice(CLI::App& app, const std::string& names, std::string& value,
                        const std::vector<std::string>& choices, const std::string& help) {
  const std::string name = last_name(names);
  const std::string list = fmt::format("{}", fmt::join(choices, ", "));
  return add_text(app, names, help + " (" + list + ")", "TEXT", value,
                  [&value, name, choices, list](const std::string& text) {
                    if (std::find(choices.begin(), choices.end(), text) == choices.end())
                      fail(ErrorKind::kUsage, "{}: got \"{}\", expected one of {}", name, text, list);
                    value = text;
                  });
}

CLI::Option* add_integers(CLI::App& app, const std::string& names, std::vector<int64_t>& values, int64_t min,
                          int64_t max, const std::string& help) {
  const std::string name = last_name(names);
  return add_text(app, names, help, "INT,...", fmt::format("{}", fmt::join(values, ",")),
                  [&values, name, min, max](const std::string& text) {
                    values.clear();
                    for (size_t begin = 0; begin <= text.size();) {
                      const size_t end = std::min(text.find(',', begin), text.size());
                      values.push_back(parse_integer(name, text.substr(begin, end - begin), min, max));
                      begin = end + 1;
                    }
                  });
}

bool is_gguf_name(const std::string& out) {
  constexpr std::string_view kEnding = ".gguf";
  const std::string ending = out.substr(out.size() - std::min(out.size(), kEnding.size()));
  const auto same_letter = [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; };
  const bool similar = std::equal(ending.begin(), ending.end(), kEnding.begin(), kEnding.end(), same_letter);
  if (similar && ending != kEnding) fail(ErrorKind::kUsage, "--out: got {}, expected an ending of {}", out, kEnding);
  return similar;
}

CLI::Option* add_profile(CLI::App& app, const std::string& names, std::string& value, const std::string& help) {
  const std::string list = fmt::format("{}", fmt::join(model::profile_names(), ", "));
  return add_text(app, names, fmt::format("{} ({}, or a JSON file)", help, list), "NAME", value,
                  [&value](const std::string& text) { value = text; });
}

}  // namespace carousel::cli
