// SPDX-License-Identifier: Apache-2.0
#include "carousel/verify/package_state.h"

namespace carousel::verify {
namespace {

struct Spelling {
  const char* name;
  std::vector<const char*> ours;
};

const std::vector<Spelling>& spellings() {
  static const std::vector<Spelling> all = {{"conv_state.0", {"u"}},
                                            {"mlstm_state.0", {"C"}},
                                            {"mlstm_state.1", {"n"}},
                                            {"mlstm_state.2", {"m"}},
                                            {"slstm_state.0", {"y", "c", "n", "m"}}};
  return all;
}

}  // namespace

std::vector<std::string> package_state(const std::string& name) {
  constexpr std::string_view kPrefix = "state.block_";
  if (!name.starts_with(kPrefix)) return {};
  const std::string rest = name.substr(kPrefix.size());
  const size_t dot = rest.find('.');
  if (dot == std::string::npos) return {};
  std::vector<std::string> names;
  for (const Spelling& spelling : spellings()) {
    if (rest.substr(dot + 1) != spelling.name) continue;
    for (const char* ours : spelling.ours) names.push_back(rest.substr(0, dot + 1) + ours);
  }
  return names;
}

}  // namespace carousel::verify
