// SPDX-License-Identifier: Apache-2.0
// What tests of ops run on: every instruction set of this machine, or the GPU that CAROUSEL_TEST_DEVICE names ("cuda"
// or "cuda:1"). A GPU that is asked for and missing fails the tests; it does not skip them.
#pragma once

#include <cstdlib>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/cuda/gpu.h"
#include "tests/isas.h"

namespace carousel {

struct Target {
  Target(Isa set = cpu::best_isa()) : isa(set) {}  // implicit: most tests run on a set of the CPU

  Memory* memory = &Memory::host();
  Isa isa;

  bool on_host() const { return !memory->is_apart(); }
  std::string name() const { return on_host() ? std::string(cpu::isa_name(isa)) : "cuda"; }
};

inline std::ostream& operator<<(std::ostream& out, const Target& target) { return out << target.name(); }

inline std::vector<Target> targets() {
  std::vector<Target> all;
  if (const char* const device = std::getenv("CAROUSEL_TEST_DEVICE"); device != nullptr) {
    const std::string name = device;
    Target gpu;
    if (name != "cuda" && !name.starts_with("cuda:")) throw std::invalid_argument("CAROUSEL_TEST_DEVICE is " + name);
    gpu.memory = &cuda::Gpu::open(name == "cuda" ? 0 : std::stoi(name.substr(5)));
    all.push_back(gpu);
    return all;
  }
  for (const Isa isa : tested_isas()) all.emplace_back(isa);
  return all;
}

}  // namespace carousel
