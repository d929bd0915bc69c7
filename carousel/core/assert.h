// SPDX-License-Identifier: Apache-2.0
// Assertions: a broken invariant is a bug, not bad input, and aborts. This header includes nothing, so that kernels of
// every compiler can use it. Errors that throw are in core/error.h.
#pragma once

namespace carousel {

[[noreturn]] void assert_failed(const char* condition, const char* file, int line);

}  // namespace carousel

// On in all builds. CAROUSEL_DASSERT is for inner loops, on in debug builds only.
#define CAROUSEL_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::carousel::assert_failed(#condition, __FILE__, __LINE__))
#ifdef NDEBUG
#define CAROUSEL_DASSERT(condition) static_cast<void>(0)
#else
#define CAROUSEL_DASSERT(condition) CAROUSEL_ASSERT(condition)
#endif
