// SPDX-License-Identifier: Apache-2.0
// What a profile means for parameters: kinds by canonical name, how they are drawn, and what training keeps of them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/model/profile.h"

namespace carousel::model {
namespace {

/// `*` in the pattern is any text.
struct KindPattern {
  const char* kind;
  const char* pattern;
};
constexpr KindPattern kKinds[] = {
    {"embeddings", "embeddings.weight"},
    {"lm_head", "lm_head.weight"},
    {"mlstm.qkv", "*mlstm*.q.weight"},
    {"mlstm.qkv", "*mlstm*.k.weight"},
    {"mlstm.qkv", "*mlstm*.v.weight"},
    {"mlstm.ogate", "*mlstm*.ogate.weight"},
    {"mlstm.gates", "*mlstm*.igate.weight"},
    {"mlstm.gates", "*mlstm*.fgate.weight"},
    {"mlstm.igate_bias", "*mlstm*.igate.bias"},
    {"mlstm.fgate_bias", "*mlstm*.fgate.bias"},
    {"ffn.gate", "*ffn.gate.weight"},
    {"ffn.up", "*ffn.up.weight"},
    {"ffn.down", "*ffn.down.weight"},
    {"cfc.weight", "*.cell.*.weight"},
    {"cfc.bias", "*.cell.*.bias"},
    {"cfc.A", "*.cell.*A"},
    {"cfc.w_tau", "*.cell.*w_tau"},
    {"ltc.gleak", "*.cell.gleak"},
    {"ltc.vleak", "*.cell.vleak"},
    {"ltc.cm", "*.cell.cm"},
    {"ltc.w", "*.cell.w"},
    {"ltc.w", "*.cell.sensory_w"},
    {"ltc.mu", "*.cell.mu"},
    {"ltc.mu", "*.cell.sensory_mu"},
    {"ltc.sigma", "*.cell.sigma"},
    {"ltc.sigma", "*.cell.sensory_sigma"},
    {"ltc.erev", "*.cell.erev"},
    {"ltc.erev", "*.cell.sensory_erev"},
};

bool matches(std::string_view text, std::string_view pattern) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') {
    for (size_t i = 0; i <= text.size(); ++i) {
      if (matches(text.substr(i), pattern.substr(1))) return true;
    }
    return false;
  }
  return !text.empty() && text[0] == pattern[0] && matches(text.substr(1), pattern.substr(1));
}

}  // namespace

std::vector<std::string> init_kinds() {
  std::vector<std::string> kinds;
  for (const KindPattern& entry : kKinds) {
    if (kinds.empty() || kinds.back() != entry.kind) kinds.emplace_back(entry.kind);
  }
  return kinds;
}

std::string init_kind(const std::string& parameter) {
  const auto found = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const KindPattern& entry) { return matches(parameter, entry.pattern); });
  return found == std::end(kKinds) ? "" : found->kind;
}

Init drawn_by(const Numerics& numerics, const std::string& parameter, const Init& init) {
  if (numerics.init.empty() || init.kind == Init::Kind::kMask) return init;
  const std::string kind = init_kind(parameter);
  for (const Numerics::Draw& draw : numerics.init) {
    if (draw.kind != kind) continue;
    Init out = draw.init;
    out.values = init.values;  // the signs are drawn where the values are not zero
    out.read_share = init.read_share;
    out.keep_f32 = init.keep_f32;
    out.mask = init.mask;
    return out;
  }
  return init;
}

Init bounded_by(const Numerics& numerics, const std::string& parameter, const Init& init) {
  const Numerics::Ltc& ltc = numerics.ltc;
  const bool is_explicit = ltc.implicit ? !*ltc.implicit : std::isfinite(init.least);
  if (!is_explicit) return init;
  const std::string kind = init_kind(parameter);
  for (const auto& [bounded, range] : {std::pair{"ltc.w", ltc.w}, {"ltc.cm", ltc.cm}, {"ltc.gleak", ltc.gleak}}) {
    if (kind == bounded) return init.at_least(std::max(range.low, init.least));
  }
  return init;
}

Numerics training_numerics(const Numerics& numerics) {
  Numerics out = Numerics::native();
  out.name = numerics.name;
  out.description = numerics.description;
  out.ltc = numerics.ltc;
  out.init = numerics.init;
  Numerics known = out;
  known.mlstm.pieces = numerics.mlstm.pieces;
  known.ltc.solver = Numerics::Solver::kSemiImplicit;
  std::string others;
  const Json asked = profile_json(numerics).flatten(), expected = profile_json(known).flatten();
  for (const auto& [pointer, value] : asked.items()) {
    if (expected.contains(pointer) && expected[pointer] == value) continue;
    std::string key = pointer.substr(1);
    std::replace(key.begin(), key.end(), '/', '.');
    others += fmt::format("{}{} {}", others.empty() ? "" : ", ", key, value.dump());
  }
  if (others.empty()) return out;
  fail(ErrorKind::kUsage, "--profile: \"{}\" rounds, or has formulas without a gradient ({}), expected native's there",
       numerics.name, others);
}

}  // namespace carousel::model
