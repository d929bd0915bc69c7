// SPDX-License-Identifier: Apache-2.0
// Waiting for what another thread or process does.
#pragma once

#include <chrono>
#include <thread>

namespace carousel {

/// How long what should take a moment may take: the machine may be busy, and the build a sanitized one.
constexpr std::chrono::seconds kPatience{300};

/// Waits until the condition holds; false: it did not in all that time.
template <class Condition>
bool comes_true(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace carousel
