// SPDX-License-Identifier: Apache-2.0
// The types of weights as options, by part.
#include "carousel/cli/weight_options.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <vector>

#include "carousel/cli/options.h"
#include "carousel/core/error.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"

namespace carousel::cli {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8,
                            DType::kQ4,  DType::kQ4K, DType::kQ5K,  DType::kQ6K};

struct MixName {
  const char* name;
  DType base;  // the type of most matrices
};
constexpr MixName kMixes[] = {{"q4_k_m", DType::kQ4K}, {"q5_k_m", DType::kQ5K}};

/// `names`, and the names of the types.
std::vector<std::string> type_names(std::vector<std::string> names) {
  for (const DType dtype : kTypes) names.push_back(weight_type_name(dtype));
  return names;
}
/// The same and the names of the mixes.
std::vector<std::string> body_names(std::vector<std::string> names) {
  names = type_names(std::move(names));
  for (const MixName& mix : kMixes) names.push_back(mix.name);
  return names;
}

}  // namespace

std::string weight_type_name(DType dtype) {
  std::string name(dtype_name(dtype));
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

std::optional<DType> weight_type_of(const std::string& name) {
  for (const DType dtype : kTypes) {
    if (weight_type_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

void WeightOptions::add_options(CLI::App& app) {
  add_choice(app, "--weights", weights, body_names({"auto"}), "Type of the weights, or a mix; auto: the file's");
  add_parts(app, "--weights");
}

void WeightOptions::add_type(CLI::App& app) {
  add_choice(app, "--type", weights, body_names({}), "Type of the weights, or a mix")->required()->default_str("");
  add_parts(app, "--type");
}

void WeightOptions::add_parts(CLI::App& app, const std::string& name) {
  const std::vector<std::string> names = type_names({"auto"});
  add_choice(app, "--embeddings", embeddings, names,
             "Of the embeddings; auto: as " + name + ", but the file's under blocks, and the mix's under a mix");
  add_choice(app, "--head", head, names, "Of the head, and of embeddings it shares; auto: likewise");
  add_choice(app, "--gates", gates, names,
             "Of small matrices of gates and routers; auto: as " + name + ", but the file's under blocks or a mix");
}

void WeightOptions::add_mmap(CLI::App& app) {
  app.add_flag("--mmap", mapped, "Use weights in the mapped file: for models larger than memory, slower");
}

model::WeightTypes WeightOptions::types() const {
  model::WeightTypes types;
  types.mapped = mapped;
  types.body = weight_type_of(weights);
  for (const MixName& mix : kMixes) {
    if (weights != mix.name) continue;
    types.body = mix.base;
    types.mixed = true;
  }
  const bool blocks = types.body && is_block(*types.body);
  const std::string rest = blocks ? "auto" : weights;
  const auto part = [&](const std::string& name) { return weight_type_of(name == "auto" ? rest : name); };
  types.embeddings = part(embeddings);
  types.head = part(head);
  types.gates = part(gates);
  return types;
}

void WeightOptions::check_parts(const std::string& path) const {
  struct Part {
    const char* flag;
    const std::string& given;
    const char* missing;
    bool has = false;
  };
  Part parts[] = {{"--weights", weights, "no matrix outside of its gates and cells that can be held so"},
                  {"--embeddings", embeddings, "no embeddings"},
                  {"--head", head, "no head"},
                  {"--gates", gates, "no matrix of gates or cells that can be held so"}};
  const auto is_auto = [](const Part& part) { return part.given == "auto"; };
  if (std::all_of(std::begin(parts), std::end(parts), is_auto)) return;
  const model::ModelFiles files = model::open_model_files(path);
  if (files.config.kind == model::ModelKind::kLanguage) return;  // loading reports what is wrong with it
  model::ParamList list;
  model::declare_params(files.config, list, files.place.config);
  const model::WeightTypes chosen_types = types();
  for (const model::ParamRecord& record : list.records()) {
    const std::optional<DType> type = record.init.gate ? chosen_types.gates : chosen_types.body;
    if (!record.matrix || !type) continue;
    if (!model::fitting_dtype(*type, record.shape[-1])) continue;
    parts[record.init.gate && gates != "auto" ? 3 : 0].has = true;
  }
  for (const Part& part : parts) {
    if (is_auto(part) || part.has) continue;
    fail(ErrorKind::kUsage, "{}: got {}, but {} (model_type \"{}\") has {}, expected auto", part.flag, part.given, path,
         files.config.model_type, part.missing);
  }
}

}  // namespace carousel::cli
