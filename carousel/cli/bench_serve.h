// SPDX-License-Identifier: Apache-2.0
// bench --serve: what a server of the model takes beside the model alone. The measuring is serve/measure.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/core/stream.h"
#include "carousel/model/load.h"

namespace carousel::cli {

struct BenchServeOptions {
  bool asked = false;             // --serve
  std::vector<std::string> only;  // names of lines; empty: all
};

void add_serve_options(CLI::App& app, BenchServeOptions& options);

/// One object per line; without `json` each is printed when it is measured. A model without a tokenizer, as --random
/// makes them, is served as one of bytes.
Json bench_serve(const BenchServeOptions& options, model::Model& model, const Stream& stream, int64_t rounds,
                 bool json);

}  // namespace carousel::cli
