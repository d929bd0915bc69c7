// SPDX-License-Identifier: Apache-2.0
// carousel bench --op: its options, and its results as JSON and as a table.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include "carousel/bench/ops.h"
#include "carousel/core/json.h"

namespace carousel::cli {

void add_op_options(CLI::App& app, bench::OpOptions& options);

/// The lines that --json prints: an object for each measured case. `results` are those of `cases`.
Json op_lines(const std::string& op, const std::vector<bench::OpCase>& cases,
              const std::vector<bench::OpResult>& results, const Stream& stream, const std::string& device);
/// Says what the mark ">" beside a share of a bound means.
void print_above_mark();
/// "memory"; of a cache, with the bytes it holds.
std::string bound_name(bench::Bound bound, size_t cached_bytes);
const char* unit_of(bench::Bound bound);  // of LeastTime::rate
/// Prints op_lines' result as a table on standard output.
void print_op_lines(const Json& lines);

}  // namespace carousel::cli
