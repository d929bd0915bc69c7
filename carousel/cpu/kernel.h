// SPDX-License-Identifier: Apache-2.0
// KERNEL(name, Args), at global scope in an op's header, declares the op's kernel for every device and instruction set
// and `kernels::name(stream, args)`, an ordinary call that switches on where the stream runs. On meta it does nothing.
// KERNEL_WITH_WORKSPACE(name, Args) also declares `kernels::name_workspace(stream, args)`: the bytes of scratch memory
// that the kernel asks the op for and lays out itself (cpu/workspace.h). On meta it answers as the CPU would.
// COMPOSITE(name, Args) and COMPOSITE_WITH_WORKSPACE declare the same for an op whose body on the CPU is plain code
// over other kernels: it is compiled once, in x_composite.cc, as `carousel::cpu::name`.
#pragma once

#include "carousel/core/assert.h"
#include "carousel/core/stream.h"

// The sets of one architecture: CAROUSEL_FOR_EACH_ISA(do, ...) is do(set, value of Isa, ...) for each of them.
#if defined(__x86_64__)
#define CAROUSEL_FOR_EACH_ISA(do, ...) \
  do (portable, kPortable, __VA_ARGS__) do(avx2, kAvx2, __VA_ARGS__) do(avx512, kAvx512, __VA_ARGS__)
#elif defined(__aarch64__)
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

#define KERNEL(name, ...)                                                    \
  CAROUSEL_FOR_EACH_ISA(CAROUSEL_DECLARE_KERNEL, name, __VA_ARGS__)          \
  namespace carousel::kernels {                                              \
  inline void name(const Stream& stream, const __VA_ARGS__& args) {          \
    if (stream.device() == Device::kMeta) return;                            \
    switch (stream.isa) {                                                    \
      CAROUSEL_FOR_EACH_ISA(CAROUSEL_CALL_KERNEL, name, __VA_ARGS__)         \
      default:                                                               \
        CAROUSEL_ASSERT(false); /* parse_isa gives what this machine runs */ \
    }                                                                        \
  }                                                                          \
  }                                                                          \
  static_assert(true)

// PLAIN_KERNEL and PLAIN_KERNEL_WITH_WORKSPACE declare the same for a kernel that is written to be compared with a
// reference and not to be fast: its x_cast.cc is compiled once, for every machine of the architecture, as
// carousel::cpu::plain::name. Its sigmoid and tanh have the bits that the sets with fused multiply-adds compute.
#define PLAIN_KERNEL(name, ...)                                           \
  CAROUSEL_DECLARE_KERNEL(plain, , name, __VA_ARGS__)                     \
  namespace carousel::kernels {                                           \
  inline void name(const Stream& stream, const __VA_ARGS__& args) {       \
    if (stream.device() != Device::kMeta) cpu::plain::name(stream, args); \
  }                                                                       \
  }                                                                       \
  static_assert(true)

#define PLAIN_KERNEL_WITH_WORKSPACE(name, ...)                                     \
  PLAIN_KERNEL(name, __VA_ARGS__);                                                 \
  CAROUSEL_DECLARE_WORKSPACE(plain, , name, __VA_ARGS__)                           \
  namespace carousel::kernels {                                                    \
  inline int64_t name##_workspace(const Stream& stream, const __VA_ARGS__& args) { \
    return cpu::plain::name##_workspace(stream, args);                             \
  }                                                                                \
  }                                                                                \
  static_assert(true)

#define KERNEL_WITH_WORKSPACE(name, ...)                                           \
  KERNEL(name, __VA_ARGS__);                                                       \
  CAROUSEL_FOR_EACH_ISA(CAROUSEL_DECLARE_WORKSPACE, name, __VA_ARGS__)             \
  namespace carousel::kernels {                                                    \
  inline int64_t name##_workspace(const Stream& stream, const __VA_ARGS__& args) { \
    switch (stream.isa) {                                                          \
      CAROUSEL_FOR_EACH_ISA(CAROUSEL_CALL_KERNEL, name##_workspace, __VA_ARGS__)   \
      default:                                                                     \
        CAROUSEL_ASSERT(false);                                                    \
    }                                                                              \
  }                                                                                \
  }                                                                                \
  static_assert(true)

#define COMPOSITE(name, ...)                                        \
  namespace carousel::cpu {                                         \
  void name(const Stream& stream, const __VA_ARGS__& args);         \
  }                                                                 \
  namespace carousel::kernels {                                     \
  inline void name(const Stream& stream, const __VA_ARGS__& args) { \
    if (stream.device() != Device::kMeta) cpu::name(stream, args);  \
  }                                                                 \
  }                                                                 \
  static_assert(true)

#define COMPOSITE_WITH_WORKSPACE(name, ...)                                        \
  COMPOSITE(name, __VA_ARGS__);                                                    \
  namespace carousel::cpu {                                                        \
  int64_t name##_workspace(const Stream& stream, const __VA_ARGS__& args);         \
  }                                                                                \
  namespace carousel::kernels {                                                    \
  inline int64_t name##_workspace(const Stream& stream, const __VA_ARGS__& args) { \
    return cpu::name##_workspace(stream, args);                                    \
  }                                                                                \
  }                                                                                \
  static_assert(true)
