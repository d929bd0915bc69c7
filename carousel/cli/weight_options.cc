// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/weight_options.h"

#include <cctype>
#include <vector>

#include "carousel/cli/options.h"

namespace carousel::cli {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4};

std::optional<DType> chosen(const std::string& name) {
  for (const DType dtype : kTypes) {
    if (weight_type_name(dtype) == name) return dtype;
  }
  return std::nullopt;
}

}  // namespace

std::string weight_type_name(DType dtype) {
  std::string name(dtype_name(dtype));
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

void WeightOptions::add_options(CLI::App& app, const std::string& name) {
  std::vector<std::string> names{"auto"};
  for (const DType dtype : kTypes) names.push_back(weight_type_name(dtype));
  add_choice(app, name, weights, names, "Type of the weights; auto: the file's");
  add_choice(app, "--embeddings", embeddings, names,
             "Of the embeddings; auto: as " + name + ", but the file's under q8 and q4");
  add_choice(app, "--head", head, names, "Of the head, and of embeddings it shares; auto: likewise");
  add_choice(app, "--gates", gates, names, "Of small matrices of gates and routers; auto: likewise");
}

model::WeightTypes WeightOptions::types() const {
  model::WeightTypes types;
  types.body = chosen(weights);
  const bool blocks = types.body && is_block(*types.body);
  const std::string rest = blocks ? "auto" : weights;
  const auto part = [&](const std::string& name) { return chosen(name == "auto" ? rest : name); };
  types.embeddings = part(embeddings);
  types.head = part(head);
  types.gates = part(gates);
  return types;
}

}  // namespace carousel::cli
