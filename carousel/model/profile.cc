// SPDX-License-Identifier: Apache-2.0
// Numeric profiles: reading and writing their JSON, and the ones that come with the program.
#include "carousel/model/profile.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <tuple>
#include <utility>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr double kMost = 1e30;  // of a bound or an initial value
constexpr int64_t kMaxUnfolds = 1000;

struct Shipped {
  const char* name;
  const char* text;
};
constexpr Shipped kShipped[] = {
#include "carousel/model/shipped_profiles.inc"  // made by CMake of profiles/*.json
};

template <class T>
using Names = std::vector<std::pair<const char*, T>>;

const Names<DType> kTypes = {{"f32", DType::kF32}, {"bf16", DType::kBF16}};
const Names<DType> kParameterTypes = {{"file", DType::kF32}, {"bf16", DType::kBF16}};
const Names<bool> kGelu = {{"erf", false}, {"tanh", true}};
const Names<bool> kCast = {{"after_weight", false}, {"before_weight", true}};
const Names<bool> kRootEps = {{"inside_root", false}, {"outside_root", true}};
const Names<bool> kVariance = {{"biased", false}, {"unbiased", true}};
const Names<bool> kMaxEps = {{"outside_max", false}, {"inside_max", true}};
const Names<Numerics::Pieces> kPieces = {
    {"grid", Numerics::Pieces::kGrid}, {"call", Numerics::Pieces::kCall}, {"steps", Numerics::Pieces::kSteps}};
const Names<Numerics::Solver> kSolvers = {{"semi_implicit", Numerics::Solver::kSemiImplicit},
                                          {"euler", Numerics::Solver::kEuler},
                                          {"runge_kutta", Numerics::Solver::kRungeKutta}};
const Names<std::optional<bool>> kConstraints = {{"model", std::nullopt}, {"implicit", true}, {"explicit", false}};

template <class T>
const char* name_of(const Names<T>& names, const T& value) {
  const auto found = std::find_if(names.begin(), names.end(), [&](const auto& pair) { return pair.second == value; });
  CAROUSEL_ASSERT(found != names.end());
  return found->first;
}

/// Null is a value of few keys; for the others it would be taken as absent.
void refuse_null(Fields& fields, std::initializer_list<const char*> keys, const std::string& expected) {
  for (const char* key : keys) {
    const Json* given = fields.present(key);
    if (given != nullptr && given->is_null()) {
      fail(ErrorKind::kInput, "{}: \"{}\" is null, expected {}", fields.where(), key, expected);
    }
  }
}

/// One of `names`; the value stays where the key is absent.
template <class T>
void read(Fields& fields, const char* key, const Names<T>& names, T& value) {
  std::vector<std::string> known;
  for (const auto& [name, meaning] : names) known.emplace_back(name);
  refuse_null(fields, {key}, fmt::format("one of: {}", fmt::join(known, ", ")));
  const std::string chosen = fields.choice(key, known, name_of(names, value));
  value = std::find_if(names.begin(), names.end(), [&](const auto& pair) { return pair.first == chosen; })->second;
}

/// A number, or null for what the model itself says.
void read(Fields& fields, const char* key, double min, double max, std::optional<double>& value) {
  const Json* given = fields.present(key);
  if (given == nullptr) return;
  value = given->is_null() ? std::nullopt : std::optional<double>(fields.number(key, min, max));
}

/// [low, high], null on a side that is free; null for both.
void read(Fields& fields, const char* key, Numerics::Range& range) {
  const Json* given = fields.present(key);
  if (given == nullptr) return;
  range = {};
  if (given->is_null()) return;
  const auto bound = [](const Json& side) {
    return side.is_null() || (side.is_number() && std::abs(side.get<double>()) <= kMost);
  };
  if (!given->is_array() || given->size() != 2 || !bound((*given)[0]) || !bound((*given)[1])) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected [low, high], null where there is no bound", fields.where(), key,
         brief(*given));
  }
  if (!(*given)[0].is_null()) range.low = (*given)[0].get<double>();
  if (!(*given)[1].is_null()) range.high = (*given)[1].get<double>();
  if (range.low > range.high) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected low to be at most high", fields.where(), key, brief(*given));
  }
}

void read_ltc(Fields fields, Numerics::Ltc& ltc) {
  read(fields, "solver", kSolvers, ltc.solver);
  if (fields.has("unfolds")) {
    ltc.unfolds = fields.integer("unfolds", 1, kMaxUnfolds);
  } else if (fields.present("unfolds") != nullptr) {
    ltc.unfolds.reset();
  }
  read(fields, "step", 1e-9, 1e9, ltc.step);
  read(fields, "epsilon", 0, 1, ltc.epsilon);
  read(fields, "constraints", kConstraints, ltc.implicit);
  read(fields, "w", ltc.w);
  read(fields, "cm", ltc.cm);
  read(fields, "gleak", ltc.gleak);
  fields.finish();
}

std::pair<double, double> read_pair(const Json& value, const std::string& where, const char* key) {
  const bool numbers = value.is_array() && value.size() == 2 && value[0].is_number() && value[1].is_number();
  if (!numbers || !(std::abs(value[0].get<double>()) <= kMost) || !(std::abs(value[1].get<double>()) <= kMost)) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected two numbers", where, key, brief(value));
  }
  return {value[0].get<double>(), value[1].get<double>()};
}

Numerics::Draw read_draw(const std::string& kind, const Json& json, const std::string& where) {
  Fields fields(json, where);
  if (json.size() != 1) {
    fail(ErrorKind::kInput,
         "{}: has {} keys, expected one of \"constant\", \"normal\", \"uniform\", \"linspace\", \"signs\"", where,
         json.size());
  }
  refuse_null(fields, {"constant", "normal", "signs"}, "a number");
  refuse_null(fields, {"uniform", "linspace"}, "two numbers");
  Numerics::Draw draw;
  draw.kind = kind;
  if (fields.has("constant")) draw.init = Init::constant(draw.first = fields.number("constant", -kMost, kMost));
  if (fields.has("normal")) draw.init = Init::normal(draw.first = fields.number("normal", 0, kMost));
  if (const Json* range = fields.raw("uniform")) {
    std::tie(draw.first, draw.second) = read_pair(*range, where, "uniform");
    if (draw.first > draw.second)
      fail(ErrorKind::kInput, "{}: \"uniform\" is {}, expected low to be at most high", where, brief(*range));
    draw.init = Init::range(draw.first, draw.second);
  }
  if (const Json* range = fields.raw("linspace")) {
    std::tie(draw.first, draw.second) = read_pair(*range, where, "linspace");
    draw.init = Init::linspace(draw.first, draw.second);
  }
  if (fields.has("signs")) draw.init = Init::signs(draw.first = fields.number("signs", 0, 1));
  fields.ignore({"constant", "normal", "uniform", "linspace", "signs"});
  fields.finish();
  return draw;
}

void read_init(const Json& json, const std::string& where, std::vector<Numerics::Draw>& draws) {
  const std::vector<std::string> known = init_kinds();
  for (const auto& [kind, value] : json.items()) {
    if (std::find(known.begin(), known.end(), kind) == known.end()) {
      fail(ErrorKind::kInput, "{}: unknown key \"{}\", expected one of {}", where, kind, fmt::join(known, ", "));
    }
    const Numerics::Draw draw = read_draw(kind, value, fmt::format("{}: \"{}\"", where, kind));
    const auto place = std::lower_bound(draws.begin(), draws.end(), draw,
                                        [](const auto& a, const auto& b) { return a.kind < b.kind; });
    if (place != draws.end() && place->kind == kind) {
      *place = draw;
    } else {
      draws.insert(place, draw);
    }
  }
}

Json bounds_json(const Numerics::Range& range) {
  return Json::array(
      {std::isfinite(range.low) ? Json(range.low) : Json(), std::isfinite(range.high) ? Json(range.high) : Json()});
}

Json draw_json(const Numerics::Draw& draw) {
  switch (draw.init.kind) {
    case Init::Kind::kNormal:
      return {{"normal", draw.first}};
    case Init::Kind::kUniform:
      return {{"uniform", {draw.first, draw.second}}};
    case Init::Kind::kLinspace:
      return {{"linspace", {draw.first, draw.second}}};
    case Init::Kind::kSigns:
      return {{"signs", draw.first}};
    default:
      return {{"constant", draw.first}};
  }
}

const Shipped* find_shipped(const std::string& name) {
  for (const Shipped& shipped : kShipped) {
    if (name == shipped.name) return &shipped;
  }
  return nullptr;
}

Numerics base_of(Fields& fields) {
  const std::string base = fields.string("extends", "native");
  if (base == "native") return Numerics::native();
  const Shipped* shipped = find_shipped(base);
  if (shipped == nullptr) {
    fail(ErrorKind::kInput, "{}: \"extends\" is \"{}\", expected one of {}", fields.where(), base,
         fmt::join(profile_names(), ", "));
  }
  return find_profile(base);
}

}  // namespace

std::vector<std::string> profile_names() {
  std::vector<std::string> names{"native"};
  for (const Shipped& shipped : kShipped) {
    if (names[0] != shipped.name) names.emplace_back(shipped.name);
  }
  return names;
}

Numerics find_profile(const std::string& name) {
  if (const Shipped* shipped = find_shipped(name)) return parse_profile(parse_json(shipped->text, name), name);
  std::error_code ignored;
  if (!std::filesystem::exists(name, ignored)) {
    fail(ErrorKind::kInput, "profile \"{}\": no such file, and none of the known ones: {}", name,
         fmt::join(profile_names(), ", "));
  }
  return parse_profile(read_json_file(name, {kMaxBytes, 16}), name);
}

Numerics parse_profile(const Json& json, const std::string& where) {
  Fields fields(json, where);
  refuse_null(fields, {"extends", "name", "description"}, "a string");
  refuse_null(fields, {"norm", "mlstm", "attention", "ltc", "init"}, "an object");
  Numerics out = base_of(fields);
  out.name = fields.string("name", where);
  out.description = fields.string("description", "");
  read(fields, "parameters", kParameterTypes, out.parameters);
  read(fields, "activations", kTypes, out.activations);
  read(fields, "states", kTypes, out.states);
  read(fields, "gates", kTypes, out.gates);
  read(fields, "gate_soft_cap", kTypes, out.gate_soft_cap);
  read(fields, "logit_soft_cap", kTypes, out.logit_soft_cap);
  read(fields, "gelu", kGelu, out.gelu_tanh);
  const auto section = [&](const char* key) {
    return Fields(fields.object(key), fmt::format("{}: \"{}\"", where, key));
  };
  Fields norm = section("norm");
  read(norm, "reduction", kTypes, out.norm.reduction);
  read(norm, "cast", kCast, out.norm.cast_before_weight);
  read(norm, "eps", kRootEps, out.norm.eps_outside_root);
  read(norm, "variance", kVariance, out.norm.unbiased_variance);
  norm.finish();
  Fields mlstm = section("mlstm");
  read(mlstm, "pieces", kPieces, out.mlstm.pieces);
  read(mlstm, "eps", kMaxEps, out.mlstm.eps_in_max);
  mlstm.finish();
  Fields attention = section("attention");
  read(attention, "rotary", kTypes, out.attention.rotary);
  read(attention, "scores", kTypes, out.attention.scores);
  attention.finish();
  read_ltc(section("ltc"), out.ltc);
  read_init(fields.object("init"), fmt::format("{}: \"init\"", where), out.init);
  fields.finish();
  return out;
}

Json profile_json(const Numerics& n) {
  const auto optional = [](const auto& value) { return value ? Json(*value) : Json(); };
  Json init = Json::object();
  for (const Numerics::Draw& draw : n.init) init[draw.kind] = draw_json(draw);
  return {
      {"name", n.name},
      {"description", n.description},
      {"parameters", name_of(kParameterTypes, n.parameters)},
      {"activations", name_of(kTypes, n.activations)},
      {"states", name_of(kTypes, n.states)},
      {"gates", name_of(kTypes, n.gates)},
      {"gate_soft_cap", name_of(kTypes, n.gate_soft_cap)},
      {"logit_soft_cap", name_of(kTypes, n.logit_soft_cap)},
      {"gelu", name_of(kGelu, n.gelu_tanh)},
      {"norm",
       {{"reduction", name_of(kTypes, n.norm.reduction)},
        {"cast", name_of(kCast, n.norm.cast_before_weight)},
        {"eps", name_of(kRootEps, n.norm.eps_outside_root)},
        {"variance", name_of(kVariance, n.norm.unbiased_variance)}}},
      {"mlstm", {{"pieces", name_of(kPieces, n.mlstm.pieces)}, {"eps", name_of(kMaxEps, n.mlstm.eps_in_max)}}},
      {"attention", {{"rotary", name_of(kTypes, n.attention.rotary)}, {"scores", name_of(kTypes, n.attention.scores)}}},
      {"ltc",
       {{"solver", name_of(kSolvers, n.ltc.solver)},
        {"unfolds", optional(n.ltc.unfolds)},
        {"step", optional(n.ltc.step)},
        {"epsilon", optional(n.ltc.epsilon)},
        {"constraints", name_of(kConstraints, n.ltc.implicit)},
        {"w", bounds_json(n.ltc.w)},
        {"cm", bounds_json(n.ltc.cm)},
        {"gleak", bounds_json(n.ltc.gleak)}}},
      {"init", init}};
}

}  // namespace carousel::model
