// SPDX-License-Identifier: Apache-2.0
// One subcommand of the binary: a line in main.cc's table and a file of its own.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>

namespace carousel::cli {

// Exit statuses besides 0 and 1.
constexpr int kUsageStatus = 2;
constexpr int kInterruptedStatus = 130;
constexpr int kBrokenPipeStatus = 141;

struct Command {
  const char* name;
  const char* summary;  // one line for --help
  /// Declares the options on `app` and returns what runs once they are parsed; its result is the exit status.
  std::function<int()> (*setup)(CLI::App& app);
};

std::function<int()> setup_bench(CLI::App& app);
std::function<int()> setup_chat(CLI::App& app);
std::function<int()> setup_compare(CLI::App& app);
std::function<int()> setup_convert(CLI::App& app);
std::function<int()> setup_eval(CLI::App& app);
std::function<int()> setup_forecast(CLI::App& app);
std::function<int()> setup_generate(CLI::App& app);
std::function<int()> setup_info(CLI::App& app);
std::function<int()> setup_init(CLI::App& app);
std::function<int()> setup_merge(CLI::App& app);
std::function<int()> setup_plot(CLI::App& app);
std::function<int()> setup_predict(CLI::App& app);
std::function<int()> setup_quantize(CLI::App& app);
std::function<int()> setup_serve(CLI::App& app);
std::function<int()> setup_tokenize(CLI::App& app);
std::function<int()> setup_train(CLI::App& app);
std::function<int()> setup_verify(CLI::App& app);
std::function<int()> setup_wiring(CLI::App& app);

}  // namespace carousel::cli
