// SPDX-License-Identifier: Apache-2.0
// Patterns matched with names, and adapters drawn or read.
#include "carousel/model/tuning.h"

#include <fnmatch.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <unordered_set>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"

namespace carousel::model {
namespace {

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

/// The canonical names of what is frozen.
std::unordered_set<std::string> find_frozen(const ModelConfig& config, const std::vector<ParamRecord>& records,
                                            const std::vector<std::string>& patterns, const std::string& where) {
  const TensorNames names = find_family(config.model_type, where).names;
  std::unordered_set<std::string> frozen;
  for (const std::string& pattern : patterns) {
    bool any = false;
    for (const ParamRecord& record : records) {
      if (record.init.kind == Init::Kind::kMask) continue;
      const std::string published = names.sources(config, record.name).front().file_name;
      if (!matches(pattern, record.name) && !matches(pattern, published)) continue;
      frozen.insert(record.name);
      any = true;
    }
    if (!any) fail(ErrorKind::kInput, "--freeze: \"{}\" names no parameter of {}", pattern, where);
  }
  return frozen;
}

bool is_left(const std::vector<ParamRecord>& records, const std::unordered_set<std::string>& frozen) {
  return std::any_of(records.begin(), records.end(), [&](const ParamRecord& record) {
    return record.init.kind != Init::Kind::kMask && !record.init.fixed && frozen.count(record.name) == 0;
  });
}

/// A run's adapter goes on as it began: targets that name other projections would have no effect.
void check_targets(const Adapter& adapter, const std::vector<AdapterModule>& asked, const std::string& folder) {
  const auto find_other = [](const std::vector<AdapterModule>& among, const std::vector<AdapterModule>& known) {
    return std::find_if(among.begin(), among.end(), [&](const AdapterModule& module) {
      return std::none_of(known.begin(), known.end(),
                          [&](const AdapterModule& one) { return one.name == module.name; });
    });
  };
  const auto more = find_other(asked, adapter.modules);
  if (more != asked.end()) {
    fail(ErrorKind::kInput, "--lora-targets: got {}, expected the {} projections that {} changes", more->name,
         adapter.modules.size(), folder);
  }
  const auto less = find_other(adapter.modules, asked);
  if (less == adapter.modules.end()) return;
  fail(ErrorKind::kInput, "--lora-targets: got none that names {}, expected the {} projections that {} changes",
       less->name, adapter.modules.size(), folder);
}

}  // namespace

TrainedChoice choose_trained(const ModelConfig& config, const std::vector<ParamRecord>& records, const Tuning& tuning,
                             uint64_t seed, const std::string& where) {
  TrainedChoice choice;
  const bool adapts = tuning.rank > 0 || !tuning.adapter.empty();
  if (adapts && !tuning.freeze.empty()) {
    fail(ErrorKind::kUsage, "--freeze: not with --lora, which trains the adapter alone");
  }
  if (adapts && config.kind != ModelKind::kLanguage) {
    fail(ErrorKind::kInput, "{}: model_type \"{}\" is no language model, expected one for an adapter", where,
         config.model_type);
  }
  if (!tuning.adapter.empty()) {
    const auto files = std::make_shared<const AdapterFiles>(tuning.adapter);
    choice.adapter = files->bind(config, records);
    if (tuning.rank > 0 && (choice.adapter.rank != tuning.rank || choice.adapter.alpha != tuning.alpha)) {
      fail(ErrorKind::kInput, "--lora: got {}:{}, expected {}:{} as in {}", tuning.rank, tuning.alpha,
           choice.adapter.rank, choice.adapter.alpha, tuning.adapter);
    }
    if (tuning.rank > 0)
      check_targets(choice.adapter, find_targets(config, records, tuning.targets, where), tuning.adapter);
    if (!tuning.base.empty()) choice.adapter.base = tuning.base;  // it may have been moved
    choice.adapter_values = [files](const ParamRecord& record, float* out) {
      const Tensor values = files->read(record.name, record.shape);
      std::memcpy(out, values.f32(), values.size_bytes());
    };
  } else if (adapts) {
    choice.adapter = {tuning.rank, tuning.alpha, false, tuning.base,
                      find_targets(config, records, tuning.targets, where)};
    choice.adapter_values = [seed](const ParamRecord& record, float* out) { draw_param(record, seed, out); };
  } else if (!tuning.freeze.empty()) {
    const std::unordered_set<std::string> frozen = find_frozen(config, records, tuning.freeze, where);
    if (!is_left(records, frozen)) fail(ErrorKind::kInput, "--freeze: nothing of {} is left to train", where);
    choice.is_trained = [frozen](const ParamRecord& record) { return frozen.count(record.name) == 0; };
  }
  return choice;
}

}  // namespace carousel::model
