// SPDX-License-Identifier: Apache-2.0
// numpy's generators and its ways of choosing, step by step as numpy takes them: a wiring's seed depends on each.
#include "carousel/core/numpy_random.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "carousel/core/error.h"

namespace carousel {
namespace {

// numpy chooses by shuffling a whole range from here on, by Floyd's method below.
constexpr int64_t kShuffleFrom = 10000;

uint64_t multiply_high(uint64_t a, uint64_t b) {
  const uint64_t a_low = a & 0xFFFFFFFFu, a_high = a >> 32;
  const uint64_t b_low = b & 0xFFFFFFFFu, b_high = b >> 32;
  const uint64_t middle = a_high * b_low + (a_low * b_low >> 32);
  const uint64_t cross = a_low * b_high + (middle & 0xFFFFFFFFu);
  return a_high * b_high + (middle >> 32) + (cross >> 32);
}

/// SeedSequence(seed).generate_state(4, uint64): a pool of four words, mixed all with all, then hashed out.
std::array<uint64_t, 4> seed_sequence(uint64_t seed) {
  uint32_t multiplier = 0x43B0D7E5u;
  const auto hash = [&](uint32_t x) {
    x ^= multiplier;
    multiplier *= 0x931E8875u;
    x *= multiplier;
    return x ^ (x >> 16);
  };
  const auto mix = [](uint32_t x, uint32_t y) {
    const uint32_t r = 0xCA01F9DDu * x - 0x4973F715u * y;
    return r ^ (r >> 16);
  };
  std::array<uint32_t, 4> pool{};
  pool[0] = hash(static_cast<uint32_t>(seed));
  pool[1] = hash(static_cast<uint32_t>(seed >> 32));  // an absent word counts as 0
  pool[2] = hash(0);
  pool[3] = hash(0);
  for (size_t i = 0; i < 4; ++i) {
    for (size_t j = 0; j < 4; ++j) {
      if (j != i) pool[j] = mix(pool[j], hash(pool[i]));
    }
  }
  uint32_t out_multiplier = 0x8B51F9DDu;
  std::array<uint64_t, 4> words{};
  for (size_t i = 0; i < 8; ++i) {
    uint32_t x = pool[i % 4] ^ out_multiplier;
    out_multiplier *= 0x58F38DEDu;
    x *= out_multiplier;
    x ^= x >> 16;
    words[i / 2] |= static_cast<uint64_t>(x) << (i % 2 * 32);
  }
  return words;
}

}  // namespace

int64_t NumpyRandomState::below_or(int64_t last) {
  CAROUSEL_ASSERT(last >= 0 && last <= 0xFFFFFFFFll);
  if (last == 0) return 0;
  auto mask = static_cast<uint32_t>(last);
  for (int shift = 1; shift < 32; shift *= 2) mask |= mask >> shift;
  for (;;) {
    const uint32_t value = static_cast<uint32_t>(engine_()) & mask;
    if (value <= static_cast<uint32_t>(last)) return value;
  }
}

std::vector<int64_t> NumpyRandomState::choice(int64_t n, int64_t count) {
  CAROUSEL_ASSERT(count >= 0 && count <= n);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = n - 1; i > 0; --i) {
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(below_or(i))]);
  }
  order.resize(static_cast<size_t>(count));
  return order;
}

NumpyGenerator::NumpyGenerator(uint64_t seed) {
  const std::array<uint64_t, 4> words = seed_sequence(seed);
  increment_ = {words[2] << 1 | words[3] >> 63, words[3] << 1 | 1};
  step();
  const uint64_t low = state_.low + words[1];
  state_ = {state_.high + words[0] + (low < words[1] ? 1 : 0), low};
  step();
}

// state = state * 0x2360ed051fc65da44385df649fccf645 + increment, modulo 2^128.
void NumpyGenerator::step() {
  constexpr Word128 kMultiplier{0x2360ED051FC65DA4ull, 0x4385DF649FCCF645ull};
  const uint64_t high =
      multiply_high(state_.low, kMultiplier.low) + state_.high * kMultiplier.low + state_.low * kMultiplier.high;
  const uint64_t low = state_.low * kMultiplier.low + increment_.low;
  state_ = {high + increment_.high + (low < increment_.low ? 1 : 0), low};
}

uint64_t NumpyGenerator::next64() {
  step();
  const uint64_t word = state_.high ^ state_.low;
  const auto turn = static_cast<int>(state_.high >> 58);
  return word >> turn | word << (-turn & 63);
}

uint32_t NumpyGenerator::next32() {
  has_kept_ = !has_kept_;
  if (!has_kept_) return kept_;
  const uint64_t word = next64();
  kept_ = static_cast<uint32_t>(word >> 32);
  return static_cast<uint32_t>(word);
}

// Lemire's method: the high half of a product, rejecting the few low halves that would favour some values.
int64_t NumpyGenerator::below_or(int64_t last) {
  CAROUSEL_ASSERT(last >= 0 && last < 0xFFFFFFFFll);
  if (last == 0) return 0;
  const uint64_t n = static_cast<uint64_t>(last) + 1;
  uint64_t product = next32() * n;
  if (static_cast<uint32_t>(product) < n) {
    const uint64_t threshold = ((uint64_t{1} << 32) - n) % n;
    while (static_cast<uint32_t>(product) < threshold) product = next32() * n;
  }
  return static_cast<int64_t>(product >> 32);
}

std::vector<int64_t> NumpyGenerator::choice(int64_t n, int64_t count) {
  CAROUSEL_ASSERT(count >= 0 && count <= n);
  std::vector<int64_t> out;
  if (n > kShuffleFrom && count > n / 50) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), int64_t{0});
    for (int64_t i = n - 1; i >= std::max<int64_t>(n - count, 1); --i) {
      std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(below_or(i))]);
    }
    out.assign(order.end() - count, order.end());
    return out;
  }
  std::unordered_set<int64_t> taken;
  for (int64_t j = n - count; j < n; ++j) {
    const int64_t value = below_or(j);
    out.push_back(taken.insert(value).second ? value : j);
    taken.insert(out.back());
  }
  for (int64_t i = count - 1; i > 0; --i) {
    std::swap(out[static_cast<size_t>(i)], out[static_cast<size_t>(below_or(i))]);
  }
  return out;
}

}  // namespace carousel
