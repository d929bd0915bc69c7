// SPDX-License-Identifier: Apache-2.0
// Builds in which everything takes ten to a hundred times as long: minutes of arithmetic that cover no new code are cut
// short there, each where it stands and with its reason.
#pragma once

namespace carousel {

/// Built with a sanitizer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

/// Built for another processor, whose emulator runs the tests (`make check-aarch64`).
#ifdef CAROUSEL_EMULATED
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

}  // namespace carousel
