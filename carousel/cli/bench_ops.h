// SPDX-License-Identifier: Apache-2.0
// carousel bench --op: one op at given shapes, beside the time its operations and bytes need at least.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/core/stream.h"

namespace carousel::cli {

struct OpOptions {
  std::string op;  // empty: none
  std::vector<int64_t> rows, batch{1};
  int64_t heads = 0, kv_heads = 0, head_dim = 0, value_dim = 0;  // 0: the op's default
  int64_t in = 0, out = 0, taps = 0;
  std::vector<int64_t> sparsity{0};  // percent
  void add_options(CLI::App& app);
};

enum class Peak : uint8_t { kF32, kBF16, kInt8 };

/// One call of an op and what it needs at least.
struct OpCase {
  std::string shape;                // "B=8 T=512 H=4 d=256"
  double flops = 0;                 // of one call
  Peak peak = Peak::kF32;           // what they are held against
  double read_bytes = 0;            // from memory
  double written_bytes = 0;         // to memory
  double cache_bytes = 0;           // read again from a cache that holds `cached_bytes`
  size_t cached_bytes = 0;          // per thread
  size_t ring = 1;                  // copies of what it works on, so that together they exceed every cache
  std::function<void(size_t)> run;  // on copy i
};

/// What --op takes.
std::vector<std::string> op_names();

/// The cases of `options`: one per batch, rows and depth. Throws Error(kUsage) for shapes the op refuses.
std::vector<OpCase> op_cases(const OpOptions& options, const std::vector<int64_t>& depths, const std::string& dtype,
                             const Stream& stream);

/// Measures the cases, `rounds` undisturbed rounds of each; prints a table unless `json`. Returns what --json prints.
Json bench_op(const OpOptions& options, const std::vector<OpCase>& cases, const Stream& stream, int64_t rounds,
              bool json, const std::function<bool()>& stop);

}  // namespace carousel::cli
