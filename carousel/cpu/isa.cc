// SPDX-License-Identifier: Apache-2.0
// A set counts as runnable only with every feature its objects are compiled for (see add_isa in CMakeLists.txt), and
// with the operating system saving its registers, which __builtin_cpu_supports checks.
#include "carousel/cpu/isa.h"

#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "carousel/core/error.h"

namespace carousel::cpu {
namespace {

#if defined(__x86_64__)
bool has_f16c() {  // clang 14's __builtin_cpu_supports does not know f16c
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
bool has_vbmi2() { return has_avx512() && __builtin_cpu_supports("avx512vbmi2"); }
#elif defined(__aarch64__) && !defined(CAROUSEL_PORTABLE)
bool has_dotprod() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
#endif

}  // namespace

std::vector<Isa> runnable_isas() {
  std::vector<Isa> isas{Isa::kPortable};
#if defined(__x86_64__) && !defined(CAROUSEL_PORTABLE)
  if (has_avx2()) isas.push_back(Isa::kAvx2);
  if (has_avx512()) isas.push_back(Isa::kAvx512);
#elif defined(__aarch64__) && !defined(CAROUSEL_PORTABLE)
  isas.push_back(Isa::kNeon);  // every aarch64 Linux has it
  if (has_dotprod()) isas.push_back(Isa::kNeonDotprod);
#endif
  return isas;
}

std::vector<Isa> built_isas() {
#if defined(__x86_64__) && !defined(CAROUSEL_PORTABLE)
  return {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};
#elif defined(__aarch64__) && !defined(CAROUSEL_PORTABLE)
  return {Isa::kPortable, Isa::kNeon, Isa::kNeonDotprod};
#else
  return {Isa::kPortable};
#endif
}

Isa best_isa() { return runnable_isas().back(); }

bool has_byte_expand() {
#if defined(__x86_64__)
  static const bool has = has_vbmi2();
  return has;
#else
  return false;
#endif
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kNeon:
      return "neon";
    case Isa::kNeonDotprod:
      return "neon_dotprod";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

Isa parse_isa(std::string_view name) {
  std::string runnable;
  for (const Isa isa : runnable_isas()) {
    if (isa_name(isa) == name) return isa;
    runnable += (runnable.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  fail(ErrorKind::kUsage, "instruction set: got \"{}\", expected one this machine runs: {}", name, runnable);
}

}  // namespace carousel::cpu
