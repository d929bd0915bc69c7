// SPDX-License-Identifier: Apache-2.0
// How long functions are and how much they take.
#include "tests/layering/functions.h"

#include "tests/layering/rules.h"

namespace carousel::layering {
namespace {

template <class F>
Breaches each_function(const Sources& sources, const F& message_of) {
  Breaches breaches;
  for (const Source& source : sources) {
    const std::optional<std::vector<Function>> functions = functions_of(source);
    if (!functions) continue;
    const bool kernel = is_kernel(source);
    for (const Function& function : *functions) {
      const std::string message = message_of(function, kernel);
      if (!message.empty()) breaches.push_back({source.path, function.first, function.name, message});
    }
  }
  return breaches;
}

}  // namespace

Breaches files_can_be_parsed(const Sources& sources) {
  Breaches breaches;
  for (const Source& source : sources) {
    if (!functions_of(source)) breaches.push_back({source.path, 1, source.path, "its brackets do not match"});
  }
  return breaches;
}

Breaches functions_fit_a_screen(const Sources& sources) {
  return each_function(sources, [](const Function& function, bool kernel) -> std::string {
    const size_t lines = function.last - function.first + 1, most = kernel ? 120 : 60;
    if (!function.defined || lines <= most) return "";
    return function.name + "() has " + std::to_string(lines) + " lines, expected at most " + std::to_string(most);
  });
}

Breaches parameters_are_six_at_most(const Sources& sources) {
  return each_function(sources, [](const Function& function, bool kernel) -> std::string {
    if (kernel || function.parameters <= 6) return "";
    return function.name + "() has " + std::to_string(function.parameters) +
           " parameters, expected at most 6: a struct";
  });
}

}  // namespace carousel::layering
