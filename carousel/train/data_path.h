// SPDX-License-Identifier: Apache-2.0
// What --data names: files, folders and patterns, each with a weight, and the kind of every file.
#pragma once

#include <string>
#include <vector>

namespace carousel::train {

enum class FileKind {
  kText,   // UTF-8, or bytes; every ending that means nothing else
  kJsonl,  // .jsonl: one JSON object a line
  kBin,    // .bin: a shard of llm.c, or bare ids
  kNpy,    // .npy: ids, or rows of features
  kCsv,    // .csv: rows of features
};

struct DataFile {
  std::string path;
  FileKind kind = FileKind::kText;
};

struct DataPath {
  std::string path;   // a file, a folder or a pattern of glob(7)
  double weight = 0;  // share of this path among others; 0: none was given
};

/// "PATH" or "PATH:WEIGHT". What is there under the whole name has no weight. Throws Error(kUsage) for a weight that is
/// not above 0.
DataPath parse_data_path(const std::string& argument);

/// The files that a path means, sorted by name: a folder means those below it whose ending is that of a kind (.txt is
/// text there). Throws Error(kInput) where there is none, and for a kind that is not read (.parquet, packed files).
std::vector<DataFile> list_files(const std::string& path);

}  // namespace carousel::train
