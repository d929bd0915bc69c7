// SPDX-License-Identifier: Apache-2.0
// The instruction sets the kernels are built for, and which of them this machine can run.
#pragma once

#include <string_view>
#include <vector>

#include "carousel/core/stream.h"

namespace carousel::cpu {

Isa best_isa();                        // the fastest this machine can run
std::vector<Isa> runnable_isas();      // slowest first; never empty
std::vector<Isa> built_isas();         // all that this binary has kernels for, runnable here or not
std::string_view isa_name(Isa isa);    // "portable", "avx2", "avx512", "neon", "neon_dotprod"
Isa parse_isa(std::string_view name);  // throws Error(kUsage): unknown, or not runnable here
bool has_byte_expand();                // this machine has AVX-512 VBMI2, which Isa::kAvx512 does not require

}  // namespace carousel::cpu
