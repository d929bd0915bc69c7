// SPDX-License-Identifier: Apache-2.0
// What a run writes while it trains: log.jsonl and an event file of TensorBoard, in the folder of the run. A line is
// one write(2), so a killed run leaves whole lines but for the last. A run that resumes after step N drops what was
// written for later steps and goes on: no step is missing, none is there twice. For that all lines of a step are
// written before its checkpoint.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "carousel/train/event_file.h"

namespace carousel::train {

/// Files in the folder of a run: its lines, and the options it goes on with.
constexpr const char* kRunLines = "log.jsonl";
constexpr const char* kRunOptions = "train.json";

class RunLog {
 public:
  /// The log of the run in `folder`, where lines of steps > `last_step` are dropped. 0: a new run, whose log is empty.
  /// Throws Error(kIo).
  RunLog(const std::string& folder, int64_t last_step);

  /// Writes {"step": step, name: value, ...}; steps never fall. A value that is not finite is null in log.jsonl, and is
  /// left out of the events. Throws Error(kIo).
  void add(int64_t step, std::span<const Measure> measures);
  /// The same for a text, in log.jsonl alone.
  void add(int64_t step, const std::string& name, const std::string& text);
  /// Flushes both to the disk: a checkpoint that is written afterwards is never ahead of its log. Throws Error(kIo).
  void flush();

 private:
  /// A file open for appending.
  class File {
   public:
    explicit File(const std::string& path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    const std::string& path() const { return path_; }
    void cut(size_t size_bytes);
    void write(const std::string& bytes);
    void flush();

   private:
    [[noreturn]] void refuse(int error) const;
    std::string path_;
    int descriptor_;
  };

  File lines_, events_;
};

/// A line of log.jsonl.
struct LogLine {
  int64_t step = 0;
  std::vector<Measure> measures;  // the numbers, without the step
};
/// The lines of log.jsonl in the folder of a run; one that is cut short at the end is left out. Throws Error(kIo,
/// kInput) "file:line: what".
std::vector<LogLine> read_log(const std::string& folder);

}  // namespace carousel::train
