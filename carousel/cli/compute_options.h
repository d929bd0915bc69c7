// SPDX-License-Identifier: Apache-2.0
// The options that say where a command computes: device, threads, instruction set, and the type of products with bf16
// weights.
#pragma once

#include <CLI/CLI.hpp>

#include <memory>
#include <string>

#include "carousel/core/stream.h"

namespace carousel::cli {

/// --device, -t/--threads and --isa of the commands that compute.
struct Machine {
  int threads = 0;  // 0: the physical cores
  std::string device = "cpu";
  std::string isa = "auto";
  std::string compute = "f32";  // train stores it as --dtype, whose default is f32
  void add_options(CLI::App& app);
  /// Adds all but --device, for commands that run on the CPU alone.
  void add_cpu_options(CLI::App& app);
  /// Adds --compute, for commands whose models may hold bf16 weights. Its default, auto, is f32: what bf16 loses is
  /// above the limit that docs/numerics.md sets for a default.
  void add_compute(CLI::App& app);
  /// Starts the threads, and opens the GPU that was asked for. Throws Error(kUsage) for an instruction set this machine
  /// lacks, Error(kDevice) for a GPU it lacks.
  Stream stream();

 private:
  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace carousel::cli
