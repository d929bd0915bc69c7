// SPDX-License-Identifier: Apache-2.0
// A kernel is compiled once per instruction set, in a *_cpu.cc, as carousel::cpu::<set>::name. The macros here declare
// these and switch between them. SET_KERNEL(name, Args), at global scope, is for kernels of the CPU alone, as those of
// this folder are: it declares `kernels::name(stream, args)`. Ops declare theirs with ops/kernel.h.
#pragma once

#include "carousel/core/assert.h"
#include "carousel/core/stream.h"

// The sets of one architecture: CAROUSEL_FOR_EACH_ISA(do, ...) is do(set, value of Isa, ...) for each of them.
#if defined(__x86_64__) && !defined(CAROUSEL_PORTABLE)
#define CAROUSEL_FOR_EACH_ISA(do, ...) \
  do (portable, kPortable, __VA_ARGS__) do(avx2, kAvx2, __VA_ARGS__) do(avx512, kAvx512, __VA_ARGS__)
#elif defined(__aarch64__) && !defined(CAROUSEL_PORTABLE)
#define CAROUSEL_FOR_EACH_ISA(do, ...) \
  do (portable, kPortable, __VA_ARGS__) do(neon, kNeon, __VA_ARGS__) do(neon_dotprod, kNeonDotprod, __VA_ARGS__)
#else
#define CAROUSEL_FOR_EACH_ISA(do, ...) \
  do (portable, kPortable, __VA_ARGS__)
#endif

#define CAROUSEL_DECLARE_KERNEL(set, isa, name, ...)        \
  namespace carousel::cpu::set {                            \
  void name(const Stream& stream, const __VA_ARGS__& args); \
  }
#define CAROUSEL_DECLARE_WORKSPACE(set, isa, name, ...)                    \
  namespace carousel::cpu::set {                                           \
  int64_t name##_workspace(const Stream& stream, const __VA_ARGS__& args); \
  }
#define CAROUSEL_CALL_KERNEL(set, value, name, ...) \
  case Isa::value:                                  \
    return cpu::set::name(stream, args);

/// The statement that calls `name` of the stream's instruction set.
#define CAROUSEL_CALL_SETS(name, ...)                                      \
  switch (stream.isa) {                                                    \
    CAROUSEL_FOR_EACH_ISA(CAROUSEL_CALL_KERNEL, name, __VA_ARGS__)         \
    default:                                                               \
      CAROUSEL_ASSERT(false); /* parse_isa gives what this machine runs */ \
  }

#define SET_KERNEL(name, ...)                                                                               \
  CAROUSEL_FOR_EACH_ISA(CAROUSEL_DECLARE_KERNEL, name, __VA_ARGS__)                                         \
  namespace carousel::kernels {                                                                             \
  inline void name(const Stream& stream, const __VA_ARGS__& args) { CAROUSEL_CALL_SETS(name, __VA_ARGS__) } \
  }                                                                                                         \
  static_assert(true)
