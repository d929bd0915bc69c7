// SPDX-License-Identifier: Apache-2.0
// Device, threads, instruction set and compute type from options, with their defaults.
#include "carousel/cli/compute_options.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "carousel/cli/options.h"
#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/cuda/gpu.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxThreads = 1024;

/// The kernels that CAROUSEL_CUDA_PLAIN names, "mlstm,stream" say: the plain way is taken around them, to compare the
/// two.
uint32_t plain_kernels() {
  const char* const given = std::getenv("CAROUSEL_CUDA_PLAIN");
  constexpr std::pair<std::string_view, cuda::Fast> kNames[] = {
      {"mlstm", cuda::Fast::kMlstm}, {"stream", cuda::Fast::kStream}, {"slstm", cuda::Fast::kSlstm}};
  uint32_t kernels = 0;
  for (std::string_view left = given != nullptr ? given : ""; !left.empty();) {
    const std::string_view name = left.substr(0, left.find(','));
    left.remove_prefix(std::min(left.size(), name.size() + 1));
    const auto* const found =
        std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& known) { return known.first == name; });
    if (found == std::end(kNames)) {
      fail(ErrorKind::kUsage, "CAROUSEL_CUDA_PLAIN: got \"{}\", expected mlstm, stream, slstm, with commas between",
           name);
    }
    kernels |= static_cast<uint32_t>(found->second);
  }
  return kernels;
}

/// The memory of "cpu", "cuda" or "cuda:1".
Memory& memory_of(const std::string& device) {
  if (device == "cpu") return Memory::host();
  const std::string gpu = "cuda";
  const bool numbered = device.starts_with(gpu + ":");
  if (device != gpu && !numbered) fail(ErrorKind::kUsage, "--device: got \"{}\", expected cpu, cuda or cuda:N", device);
  const std::string number = numbered ? device.substr(gpu.size() + 1) : "0";
  const uint32_t plain = plain_kernels();
  cuda::Gpu& opened =
      cuda::Gpu::open(static_cast<int>(parse_integer("--device cuda:N", number, 0, std::numeric_limits<int>::max())));
  opened.run_plain(plain);
  return opened;
}

}  // namespace

void Machine::add_options(CLI::App& app) {
  app.add_option("--device", device, "Where the model is and runs: cpu, cuda, or cuda:N for another GPU than the first")
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
  add_choice(app, "--compute", compute, {"f32", "bf16"}, "Products with bf16 weights; bf16 rounds their input");
}

Stream Machine::stream() {
  Stream stream;
  stream.memory = &memory_of(device);
  stream.compute = compute == "bf16" ? Compute::kBF16 : Compute::kF32;
  stream.isa = isa == "auto" ? cpu::best_isa() : cpu::parse_isa(isa);
  pool_ = std::make_unique<ThreadPool>(threads > 0 ? threads : physical_cores());
  stream.pool = pool_.get();
  return stream;
}

}  // namespace carousel::cli
