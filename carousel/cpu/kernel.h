// SPDX-License-Identifier: Apache-2.0
// KERNEL(name, Args), at global scope in an op's header, declares the op's kernel for every device and instruction set
// and `kernels::name(stream, args)`, an ordinary call that switches on where the stream runs.
#pragma once

#include "carousel/core/error.h"
#include "carousel/core/stream.h"

#define CAROUSEL_DECLARE_KERNEL(isa, name, ...)             \
  namespace carousel::cpu::isa {                            \
  void name(const Stream& stream, const __VA_ARGS__& args); \
  }

#if defined(__x86_64__)
#define KERNEL(name, ...)                                           \
  CAROUSEL_DECLARE_KERNEL(portable, name, __VA_ARGS__)              \
  CAROUSEL_DECLARE_KERNEL(avx2, name, __VA_ARGS__)                  \
  CAROUSEL_DECLARE_KERNEL(avx512, name, __VA_ARGS__)                \
  namespace carousel::kernels {                                     \
  inline void name(const Stream& stream, const __VA_ARGS__& args) { \
    CAROUSEL_ASSERT(stream.device == Device::kCpu);                 \
    switch (stream.isa) {                                           \
      case Isa::kAvx512:                                            \
        return cpu::avx512::name(stream, args);                     \
      case Isa::kAvx2:                                              \
        return cpu::avx2::name(stream, args);                       \
      case Isa::kPortable:                                          \
        return cpu::portable::name(stream, args);                   \
    }                                                               \
  }                                                                 \
  }                                                                 \
  static_assert(true)
#else
#define KERNEL(name, ...)                                           \
  CAROUSEL_DECLARE_KERNEL(portable, name, __VA_ARGS__)              \
  namespace carousel::kernels {                                     \
  inline void name(const Stream& stream, const __VA_ARGS__& args) { \
    CAROUSEL_ASSERT(stream.device == Device::kCpu);                 \
    cpu::portable::name(stream, args);                              \
  }                                                                 \
  }                                                                 \
  static_assert(true)
#endif
