// SPDX-License-Identifier: Apache-2.0
// This file writes the ops of forwards as JSON and as tables.
#include "carousel/cli/bench_kernels.h"

#include <fmt/format.h>

#include <algorithm>

#include "carousel/cli/bench_op.h"

namespace carousel::cli {
namespace {

constexpr size_t kShown = 10;

Json to_json(const bench::KernelTime& kernel, double whole) {
  Json line = {{"op", kernel.op},
               {"shape", kernel.shape},
               {"calls", kernel.calls},
               {"seconds", kernel.seconds},
               {"percent_of_ops", 100 * kernel.seconds / std::max(whole, 1e-12)}};
  if (kernel.least.seconds > 0) {
    line["bound"] = bound_name(kernel.least.bound, kernel.cached_bytes);
    line["bound_rate"] = kernel.least.rate;
    line["bound_unit"] = unit_of(kernel.least.bound);
    line["percent_of_bound"] = 100 * kernel.least.seconds / std::max(kernel.seconds, 1e-12);
  }
  return line;
}

void print_line(const Json& line) {
  const auto number = [&](const char* key) { return line.at(key).get<double>(); };
  std::string bound = "-", share = "-";
  if (line.contains("bound")) {
    bound = fmt::format("{}: {:.1f} {}", line.at("bound").get<std::string>(), number("bound_rate"),
                        line.at("bound_unit").get<std::string>());
    share = fmt::format("{:.1f}{}", number("percent_of_bound"), number("percent_of_bound") > 100 ? " >" : "");
  }
  fmt::print("  {:<15} {:<40} {:>5} {:>10.1f} {:>6.1f}  {:<22} {:>7}\n", line.at("op").get<std::string>(),
             line.at("shape").get<std::string>(), line.at("calls").get<int64_t>(), 1e6 * number("seconds"),
             number("percent_of_ops"), bound, share);
}

}  // namespace

Json kernel_lines(const std::vector<bench::KernelTimes>& tests) {
  Json lines = Json::array();
  for (const bench::KernelTimes& times : tests) {
    Json kernels = Json::array();
    for (const bench::KernelTime& kernel : times.kernels) kernels.push_back(to_json(kernel, times.seconds));
    lines.push_back({{"decode", times.test.decode},
                     {"tokens", times.test.tokens},
                     {"depth", times.test.depth},
                     {"batch", times.test.batch},
                     {"seconds", times.seconds},
                     {"kernels", kernels}});
  }
  return lines;
}

void print_kernel_lines(const Json& lines) {
  bool above = false;
  for (const Json& test : lines) {
    const auto batch = test.at("batch").get<int64_t>();
    const std::string what = test.at("decode").get<bool>()
                                 ? fmt::format("a token{}", batch > 1 ? fmt::format(" of {} sequences", batch) : "")
                                 : fmt::format("a prompt of {}", test.at("tokens").get<int64_t>());
    fmt::print("ops of {} after {}: {:.3f} ms\n", what, test.at("depth").get<int64_t>(),
               1e3 * test.at("seconds").get<double>());
    fmt::print("  {:<15} {:<40} {:>5} {:>10} {:>6}  {:<22} {:>7}\n", "op", "shape", "calls", "us", "%", "bound",
               "% of it");
    double others = 0, share = 0;
    int64_t calls = 0;
    size_t shown = 0;
    for (const Json& line : test.at("kernels")) {
      if (shown++ < kShown) {
        above = above || line.value("percent_of_bound", 0.0) > 100;
        print_line(line);
        continue;
      }
      others += line.at("seconds").get<double>();
      share += line.at("percent_of_ops").get<double>();
      calls += line.at("calls").get<int64_t>();
    }
    if (calls > 0) fmt::print("  {:<56} {:>5} {:>10.1f} {:>6.1f}\n", "others", calls, 1e6 * others, share);
  }
  if (above) fmt::print("> above the bound: a cache still held what is counted as read from memory\n");
}

}  // namespace carousel::cli
