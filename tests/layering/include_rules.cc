// SPDX-License-Identifier: Apache-2.0
// Who may include whom. The table is what is true and meant: a folder that needs another one gets it here, in the open.
#include <algorithm>
#include <functional>
#include <map>
#include <regex>
#include <set>

#include "tests/layering/rules.h"

namespace carousel::layering {
namespace {

struct Folder {
  int floor;                   // includes go down
  std::set<std::string> sees;  // besides itself; less than the floors below it where less is needed
};

const std::map<std::string, Folder>& folders() {
  static const std::map<std::string, Folder> kFolders = {
      {"core", {1, {}}},
      {"cpu", {2, {"core"}}},
      {"formats", {2, {"core"}}},
      {"text", {2, {"core"}}},
      {"cuda", {2, {"core"}}},
      {"ops", {3, {"core", "cpu", "cuda"}}},
      {"blocks", {4, {"core", "ops"}}},
      {"model", {5, {"core", "formats", "text", "ops", "blocks"}}},
      {"generate", {6, {"core", "text", "ops", "model"}}},
      {"forecast", {6, {"core", "formats", "text", "model"}}},
      {"verify", {7, {"core", "formats", "ops", "blocks", "model", "generate", "forecast", "train"}}},
      {"bench", {7, {"core", "cpu", "ops", "blocks", "model", "train"}}},
      {"mpi", {7, {"core", "train"}}},
      {"serve", {7, {"core", "formats", "text", "ops", "model", "generate"}}},
      {"cli",
       {8,
        {"core", "cpu", "cuda", "formats", "text", "blocks", "model", "generate", "forecast", "train", "verify",
         "bench", "mpi", "serve"}}},
      // Planned; a row is tightened when its folder is there.
      {"tasks", {2, {"core"}}},
      {"train", {6, {"core", "formats", "text", "tasks", "ops", "blocks", "model"}}},
      {"api", {7, {"core", "text", "ops", "model", "generate", "forecast"}}},
  };
  return kFolders;
}

/// The folder of "carousel/model/load.h"; empty for what is not ours.
std::string folder_of(const std::string& include) {
  const size_t first = std::string("carousel/").size(), end = include.find('/', first);
  return starts_with(include, "carousel/") && end != std::string::npos ? include.substr(first, end - first) : "";
}

template <class F>
Breaches each_include(const Sources& sources, const F& message_of) {
  Breaches breaches;
  for (const Source& source : sources) {
    for (const Include& include : includes_of(source)) {
      const std::string message = message_of(source, include);
      if (!message.empty()) breaches.push_back({source.path, include.line, include.path, message});
    }
  }
  return breaches;
}

}  // namespace

std::vector<std::string> rows_that_do_not_go_down() {
  std::vector<std::string> rows;
  for (const auto& [name, folder] : folders()) {
    for (const std::string& seen : folder.sees) {
      if (folders().count(seen) == 0 || folders().at(seen).floor >= folder.floor) rows.push_back(name + ": " + seen);
    }
  }
  return rows;
}

Breaches includes_stay_in_the_table(const Sources& sources) {
  Breaches breaches;
  for (const Source& source : sources) {
    if (folders().count(source.folder) != 0) continue;
    breaches.push_back({source.path, 1, source.folder, "its folder has no row in tests/layering/include_rules.cc"});
  }
  const Breaches found = each_include(sources, [](const Source& source, const Include& include) -> std::string {
    const std::string seen = folder_of(include.path);
    const auto row = folders().find(source.folder);
    if (seen.empty() || row == folders().end() || seen == source.folder || row->second.sees.count(seen) != 0) return "";
    return source.folder + "/ may not include " + include.path;
  });
  breaches.insert(breaches.end(), found.begin(), found.end());
  return breaches;
}

bool is_kernel(const Source& source) {
  for (const char* end : {"_cpu.cc", "_cpu.h", "_cast.cc", "_cast.h", "_composite.cc", "_cuda.cu", "_cuda.cuh"}) {
    if (ends_with(source.path, end)) return true;
  }
  return std::any_of(source.code.begin(), source.code.end(), [](const std::string& line) {
    return starts_with(line, "namespace carousel::cpu::CAROUSEL_ISA");
  });
}

Breaches kernel_headers_stay_with_kernels(const Sources& sources) {
  return each_include(sources, [](const Source& source, const Include& include) -> std::string {
    const std::string family = family_of(source.path);
    const std::string stem = source.path.substr(0, source.path.rfind('.'));  // ops/tape.cc has ops/tape_cpu.h
    if (source.path == "carousel/bench/kernel_costs.cc") return "";          // it reads what a stream's watch is told
    const bool own = (!family.empty() && family == family_of(include.path)) || include.path == stem + "_cpu.h";
    if ((!ends_with(include.path, "_cpu.h") && !ends_with(include.path, "_cast.h")) || own || is_kernel(source))
      return "";
    return include.path + " is for kernels and for the files of its family";
  });
}

Breaches families_of_ops_form_no_circle(const Sources& sources) {
  std::map<std::string, std::set<std::string>> sees;
  Breaches breaches = each_include(sources, [&](const Source& source, const Include& include) -> std::string {
    const std::string from = family_of(source.path), to = family_of(include.path);
    if (to.empty() || from == to || source.folder != "ops") return "";
    if (!from.empty()) sees[from].insert(to);
    if (from == "ops/weight") return "ops/weight includes no other family";
    return from.empty() && to != "ops/weight" ? "the contracts on top of ops/ include no family but ops/weight" : "";
  });
  std::set<std::string> done;
  std::vector<std::string> path;
  const std::function<void(const std::string&)> walk = [&](const std::string& family) {
    const auto begin = std::find(path.begin(), path.end(), family);
    if (begin != path.end()) {
      std::string circle;
      for (auto at = begin; at != path.end(); ++at) circle += *at + " -> ";
      breaches.push_back({"carousel/" + family, 1, family, "families in a circle: " + circle + family});
      return;
    }
    if (done.count(family) != 0) return;
    path.push_back(family);
    for (const std::string& next : sees[family]) walk(next);
    path.pop_back();
    done.insert(family);
  };
  std::vector<std::string> all;
  for (const auto& row : sees) all.push_back(row.first);
  for (const std::string& family : all) walk(family);
  return breaches;
}

Breaches includes_are_by_full_path(const Sources& sources) {
  return each_include(sources, [](const Source&, const Include& include) -> std::string {
    return include.quoted && !starts_with(include.path, "carousel/") ? "include it as carousel/..." : "";
  });
}

Breaches only_cuda_sees_cuda_headers(const Sources& sources) {
  return each_include(sources, [](const Source& source, const Include& include) -> std::string {
    static const std::regex cuda("^(cuda|cublas|nccl)");
    if (source.folder == "cuda" || ends_with(source.path, "_cuda.cu") || ends_with(source.path, "_cuda.cuh")) return "";
    return std::regex_search(include.path, cuda) ? "CUDA's headers are for cuda/ and *_cuda.cu" : "";
  });
}

Breaches only_mpi_sees_mpi_headers(const Sources& sources) {
  return each_include(sources, [](const Source& source, const Include& include) -> std::string {
    return source.folder != "mpi" && include.path == "mpi.h" ? "MPI's header is for mpi/" : "";
  });
}

Breaches only_the_command_line_sees_options(const Sources& sources) {
  return each_include(sources, [](const Source& source, const Include& include) -> std::string {
    return source.folder != "cli" && starts_with(include.path, "CLI/") ? "options belong to cli/" : "";
  });
}

}  // namespace carousel::layering
