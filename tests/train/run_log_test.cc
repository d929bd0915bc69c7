// SPDX-License-Identifier: Apache-2.0
// Logs of runs: whole lines, cut where a run resumes, the same numbers in both files.
#include "carousel/train/run_log.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "carousel/core/json.h"
#include "carousel/train/loss_plot.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

constexpr const char* kEvents = "events.out.tfevents.0.carousel";

std::string read(const std::string& path) { return read_text_file(path, 1 << 20); }

void add_steps(RunLog& log, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) {
    log.add(step, std::vector<Measure>{{"loss", 3.0 / static_cast<double>(step)}, {"lr", 1e-3}});
    if (step % 5 == 0) log.add(step, std::vector<Measure>{{"valid_loss", 4.0}});
  }
}

std::vector<int64_t> steps_of(const std::string& folder) {
  std::vector<int64_t> out;
  for (const LogLine& line : read_log(folder)) out.push_back(line.step);
  return out;
}

TEST(RunLog, LinesAreJson) {
  const Scratch scratch;
  RunLog log(scratch.path(), 0);
  log.add(1, std::vector<Measure>{{"loss", 0.1}, {"tokens", 4096}, {"norm", std::numeric_limits<double>::infinity()}});
  log.add(2, "sample", "a \"b\"\n\xFF");
  log.flush();
  EXPECT_EQ(read(scratch / "log.jsonl"),
            "{\"step\": 1, \"loss\": 0.1, \"tokens\": 4096, \"norm\": null}\n"
            "{\"step\": 2, \"sample\": \"a \\\"b\\\"\\n\xEF\xBF\xBD\"}\n");
  const std::vector<LogLine> lines = read_log(scratch.path());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].measures.size(), 2u) << "null is no number";
  EXPECT_EQ(lines[1].measures.size(), 0u);
}

TEST(RunLog, AResumedRunHasNoGapAndNoDouble) {
  const Scratch whole, cut;
  {
    RunLog log(whole.path(), 0);
    add_steps(log, 1, 20);
  }
  for (const int64_t checkpoint : {1, 4, 5, 10, 13}) {
    for (const size_t torn : {0, 1, 7, 20}) {
      {
        RunLog log(cut.path(), 0);
        add_steps(log, 1, 14);
      }
      for (const char* name : {"log.jsonl", kEvents}) {  // killed in the middle of a line
        std::filesystem::resize_file(cut / name, std::filesystem::file_size(cut / name) - torn);
      }
      RunLog log(cut.path(), checkpoint);
      add_steps(log, checkpoint + 1, 20);
      EXPECT_EQ(read(cut / "log.jsonl"), read(whole / "log.jsonl")) << checkpoint << " " << torn;
      EXPECT_EQ(std::filesystem::file_size(cut / kEvents), std::filesystem::file_size(whole / kEvents));
      EXPECT_EQ(events_until(read(cut / kEvents), 1000), std::filesystem::file_size(cut / kEvents));
    }
  }
}

TEST(RunLog, ANewRunBeginsAnew) {
  const Scratch scratch;
  {
    RunLog log(scratch.path(), 0);
    add_steps(log, 1, 3);
  }
  RunLog log(scratch.path(), 0);
  add_steps(log, 1, 1);
  EXPECT_EQ(steps_of(scratch.path()), (std::vector<int64_t>{1}));
}

TEST(RunLog, DamageIsCutOff) {
  const Scratch scratch;
  {
    RunLog log(scratch.path(), 0);
    add_steps(log, 1, 4);
  }
  std::ofstream(scratch / "log.jsonl", std::ios::app) << std::string(100, '\0') << "\n";
  std::ofstream(scratch / kEvents, std::ios::app) << std::string(100, '\0');
  RunLog log(scratch.path(), 4);
  add_steps(log, 5, 5);
  EXPECT_EQ(steps_of(scratch.path()), (std::vector<int64_t>{1, 2, 3, 4, 5, 5}));
}

TEST(RunLog, WhatIsNoLogIsRefused) {
  const Scratch scratch;
  EXPECT_NE(error_of([&] { read_log(scratch.path()); }).find("log.jsonl: cannot open"), std::string::npos);
  EXPECT_NE(error_of([&] { RunLog(scratch / "none", 0); }).find("cannot create"), std::string::npos);
  write(scratch / "log.jsonl", "{\"step\": 1}\n{\"loss\": 1}\n");
  EXPECT_NE(error_of([&] { read_log(scratch.path()); }).find("log.jsonl:2: no \"step\""), std::string::npos);
}

// RFC 3720, B.4, and the check value of the catalogue of CRCs.
TEST(EventFile, Crc32cIsCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  EXPECT_EQ(crc32c(""), 0u);
}

// The bytes that tensorboard 2.21 writes for the same events (EventFileWriter).
TEST(EventFile, RecordsAreThoseOfTensorBoard) {
  const auto bytes = [](std::initializer_list<int> values) {
    std::string out;
    for (const int value : values) out += static_cast<char>(value);
    return out;
  };
  const std::string record = event_of(300, 1.5, std::vector<Measure>{{"loss", 0.25}});
  const std::string message =
      bytes({0x09, 0, 0, 0, 0, 0, 0, 0xF8, 0x3F, 0x10, 0xAC, 0x02, 0x2A, 0x0D, 0x0A, 0x0B, 0x0A, 0x04}) + "loss" +
      bytes({0x15, 0, 0, 0x80, 0x3E});
  EXPECT_EQ(record.size(), 16 + message.size());
  EXPECT_EQ(record.substr(12, message.size()), message);
  EXPECT_EQ(record.substr(0, 8), bytes({27, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(events_until(record, 299), 0u);
  EXPECT_EQ(events_until(record, 300), record.size());
  for (size_t i = 0; i < record.size(); ++i) {
    std::string damaged = record;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    EXPECT_EQ(events_until(damaged, 1000), 0u) << i;
    EXPECT_EQ(events_until(record.substr(0, i), 1000), 0u) << i;
  }
}

TEST(LossPlot, DrawsEveryRun) {
  std::vector<RunCurve> runs(2);
  for (int64_t step = 1; step <= 5000; ++step) {
    for (RunCurve& run : runs) run.lines.push_back({step, {{kLoss, 2 + 3.0 / static_cast<double>(step)}}});
    if (step % 1000 == 0) runs[1].lines.push_back({step, {{kValidLoss, 2.5}}});
  }
  runs[0].name = "one <&";
  runs[1].name = "two";
  const std::string svg = plot_losses(runs);
  EXPECT_EQ(svg, plot_losses(runs));
  EXPECT_NE(svg.find("one &lt;&amp;"), std::string::npos);
  EXPECT_NE(svg.find("two 2.0"), std::string::npos);
  EXPECT_NE(svg.find(", valid 2.5000"), std::string::npos);
  EXPECT_LT(svg.size(), 100000u) << "thousands of steps are averaged per column";
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(LossPlot, FewAndEqualValues) {
  EXPECT_EQ(plot_losses({{"one", {{1, {{kLoss, 2.0}}}}}}).find("nan"), std::string::npos);
  EXPECT_EQ(plot_losses({{"one", {{1, {{kLoss, 0.0}}}, {2, {{kLoss, 0.0}}}}}}).find("nan"), std::string::npos);
  EXPECT_NE(error_of([] { plot_losses({{"one", {{1, {{"lr", 2.0}}}}}}); }).find("no \"loss\""), std::string::npos);
  EXPECT_NE(error_of([] { plot_losses(std::vector<RunCurve>(13)); }).find("at most 12"), std::string::npos);
}

// Neighbours among doubles: 1 more changes neither, and the ticks between them end all the same.
TEST(LossPlot, NumbersTooLargeToCountByOne) {
  constexpr int64_t kFar = 9000000000000000000;
  const auto svg = [](int64_t last, double loss) {
    return plot_losses({{"one", {{kFar, {{kLoss, 1e16}}}, {last, {{kLoss, loss}}}, {last, {{kLoss, loss}}}}}});
  };
  for (const std::string& picture : {svg(kFar + 2048, 1e16), svg(kFar + 2048, 1e16 + 2), svg(kFar, 1e16 + 2)}) {
    EXPECT_LT(picture.size(), 50000u);
    EXPECT_EQ(picture.find("nan"), std::string::npos);
  }
}

}  // namespace
}  // namespace carousel::train
