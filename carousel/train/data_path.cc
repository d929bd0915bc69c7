// SPDX-License-Identifier: Apache-2.0
// Files by name, folder and pattern, and their kinds by ending.
#include "carousel/train/data_path.h"

#include <glob.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/train/run_log.h"

namespace carousel::train {
namespace {

namespace fs = std::filesystem;

std::string ending_of(const std::string& path) {
  std::string ending = fs::path(path).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return ending;
}

std::optional<FileKind> kind_of(const std::string& ending) {
  if (ending == ".txt") return FileKind::kText;
  if (ending == ".jsonl") return FileKind::kJsonl;
  if (ending == ".bin") return FileKind::kBin;
  if (ending == ".npy") return FileKind::kNpy;
  if (ending == ".csv") return FileKind::kCsv;
  return std::nullopt;
}

// Refuses a file that would make nonsense as text.
void check_ending(const std::string& path, const std::string& ending) {
  if (ending == ".parquet") {
    fail(ErrorKind::kInput,
         "{}: .parquet is not read, expected .jsonl: python3 -c \"import pandas; pandas.read_parquet('{}')"
         ".to_json('{}.jsonl', orient='records', lines=True)\" converts it",
         path, path, path.substr(0, path.size() - ending.size()));
  }
  if (ending == ".json") fail(ErrorKind::kInput, "{}: got .json, expected .jsonl with one object a line", path);
  for (const char* packed : {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z"}) {
    if (ending == packed) fail(ErrorKind::kInput, "{}: a packed file, expected it unpacked", path);
  }
  for (const char* other : {".safetensors", ".gguf", ".arrow", ".pdf", ".pt", ".npz", ".h5"}) {
    if (ending == other) fail(ErrorKind::kInput, "{}: got {}, expected text, .jsonl, .bin or .npy", path, ending);
  }
}

void add_file(const std::string& path, std::vector<DataFile>& out) {
  const std::string ending = ending_of(path);
  check_ending(path, ending);
  out.push_back({path, kind_of(ending).value_or(FileKind::kText)});
}

/// Whether a folder is that of a run, whose log and caches are no data.
bool is_run(const std::string& folder) {
  return file_exists(folder + "/" + kRunOptions) && file_exists(folder + "/" + kRunLines);
}

void add_folder(const std::string& folder, std::vector<DataFile>& out) {
  for (const std::string& name : names_in(folder)) {
    if (name.starts_with('.')) continue;
    const std::string path = folder + "/" + name, ending = ending_of(name);
    if (is_folder(path)) {
      if (!is_run(path)) add_folder(path, out);
    } else if (kind_of(ending) || ending == ".parquet") {
      add_file(path, out);
    }
  }
}

void add_path(const std::string& path, std::vector<DataFile>& out) {
  if (is_folder(path)) {
    add_folder(path, out);
  } else {
    add_file(path, out);
  }
}

bool is_pattern(const std::string& path) { return path.find_first_of("*?[") != std::string::npos; }

// The paths that a pattern matches, sorted.
std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> paths;
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  return paths;
}

bool is_there(const std::string& path) {
  std::error_code unknown;
  return fs::exists(path, unknown) || (is_pattern(path) && !matches_of(path).empty());
}

}  // namespace

DataPath parse_data_path(const std::string& argument) {
  const size_t colon = argument.rfind(':');
  if (colon == std::string::npos || is_there(argument)) return {argument, 0};
  const std::string number = argument.substr(colon + 1);
  double weight = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), weight);
  const bool whole = error == std::errc() && end == number.data() + number.size() && !number.empty();
  if (!whole && !is_there(argument.substr(0, colon))) return {argument, 0};
  if (!whole || !std::isfinite(weight) || weight <= 0) {
    fail(ErrorKind::kUsage, "--data: got the weight \"{}\" in \"{}\", expected a number above 0", number, argument);
  }
  return {argument.substr(0, colon), weight};
}

std::vector<DataFile> list_files(const std::string& path) {
  std::vector<DataFile> out;
  if (file_exists(path)) {
    add_path(path, out);
  } else if (is_pattern(path)) {
    for (const std::string& match : matches_of(path)) add_path(match, out);
    if (out.empty()) fail(ErrorKind::kInput, "{}: no file matches", path);
  } else {
    fail(ErrorKind::kIo, "{}: cannot open: No such file or directory", path);
  }
  if (out.empty()) fail(ErrorKind::kInput, "{}: no document: no .txt, .jsonl, .bin, .npy or .csv in the folder", path);
  return out;
}

}  // namespace carousel::train
