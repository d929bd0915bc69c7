// SPDX-License-Identifier: Apache-2.0
// Threads, instruction set and compute type from options, with their defaults.
#include "carousel/cli/compute_options.h"

#include <string>
#include <vector>

#include "carousel/cli/options.h"
#include "carousel/cpu/isa.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxThreads = 1024;

}  // namespace

void Machine::add_options(CLI::App& app) {
  CLI::Option* option = app.add_option("-t,--threads", [this](const CLI::results_t& results) {
    threads = static_cast<int>(parse_integer("--threads", results.back(), 0, kMaxThreads));
    return true;
  });
  option->description("Threads; 0: one per physical core")->type_name("INT")->default_str("0");
  std::vector<std::string> names{"auto"};
  for (const Isa known : cpu::built_isas()) names.emplace_back(cpu::isa_name(known));
  add_choice(app, "--isa", isa, names, "Instruction set");
}

void Machine::add_compute(CLI::App& app) {
  add_choice(app, "--compute", compute, {"f32", "bf16"}, "Products with bf16 weights; bf16 rounds their input");
}

Stream Machine::stream() {
  Stream stream;
  stream.compute = compute == "bf16" ? Compute::kBF16 : Compute::kF32;
  stream.isa = isa == "auto" ? cpu::best_isa() : cpu::parse_isa(isa);
  pool_ = std::make_unique<ThreadPool>(threads > 0 ? threads : physical_cores());
  stream.pool = pool_.get();
  return stream;
}

}  // namespace carousel::cli
