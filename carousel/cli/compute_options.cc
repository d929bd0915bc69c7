// SPDX-License-Identifier: Apache-2.0
// Device, threads, instruction set and compute type from options, with their defaults.
#include "carousel/cli/compute_options.h"

#include <limits>
#include <string>
#include <vector>

#include "carousel/cli/options.h"
#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/cuda/gpu.h"
#include "carousel/model/runner.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxThreads = 1024;

/// The memory of "cpu", "cuda" or "cuda:1".
Memory& memory_of(const std::string& device) {
  if (device == "cpu") return Memory::host();
  const std::string gpu = "cuda";
  const bool numbered = device.starts_with(gpu + ":");
  if (device != gpu && !numbered) fail(ErrorKind::kUsage, "--device: got \"{}\", expected cpu, cuda or cuda:N", device);
  const std::string number = numbered ? device.substr(gpu.size() + 1) : "0";
  return cuda::Gpu::open(
      static_cast<int>(parse_integer("--device cuda:N", number, 0, std::numeric_limits<int>::max())));
}

}  // namespace

void Machine::add_options(CLI::App& app) {
  app.add_option("--device", device,
                 "Where a model or op is and runs: cpu, cuda, or cuda:N for another GPU than the first")
      ->type_name("NAME")
      ->capture_default_str();
  add_cpu_options(app);
}

void Machine::add_cpu_options(CLI::App& app) {
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
  compute = "auto";
  add_choice(app, "--compute", compute, {"auto", "f32", "bf16"},
             "Products with bf16 weights; bf16 rounds their input; auto: f32, on a GPU bf16");
}

Stream Machine::stream() {
  Stream stream;
  stream.memory = &memory_of(device);
  stream.compute = compute == "auto"   ? kernel_traits(*stream.memory).compute
                   : compute == "bf16" ? Compute::kBF16
                                       : Compute::kF32;
  stream.isa = isa == "auto" ? cpu::best_isa() : cpu::parse_isa(isa);
  pool_ = std::make_unique<ThreadPool>(threads > 0 ? threads : physical_cores());
  stream.pool = pool_.get();
  return stream;
}

}  // namespace carousel::cli
