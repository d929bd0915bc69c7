// SPDX-License-Identifier: Apache-2.0
// Plans that cut sequences of one length: whole, at random, token by token.
#include "carousel/verify/sequence_cuts.h"

#include <algorithm>

#include "carousel/core/rng.h"

namespace carousel::verify {
namespace {

constexpr uint64_t kPieceSeed = 1;
constexpr uint32_t kLongestPiece = 24;

Plan random_pieces(int64_t batch, int64_t length) {
  Rng rng(kPieceSeed);
  std::vector<int64_t> left(static_cast<size_t>(batch), length);
  Plan plan;
  while (std::any_of(left.begin(), left.end(), [](int64_t n) { return n > 0; })) {
    plan.emplace_back();
    for (int64_t& n : left) {
      const int64_t piece = std::min<int64_t>(n, rng.bits() % (kLongestPiece + 1));  // none at all, at times
      plan.back().push_back(piece);
      n -= piece;
    }
  }
  return plan;
}

}  // namespace

std::vector<Way> ways(int64_t batch, int64_t length) {
  const auto all = static_cast<size_t>(batch);
  return {{"in one piece", Plan(1, std::vector<int64_t>(all, length))},
          {"in random pieces", random_pieces(batch, length)},
          {"token by token", Plan(static_cast<size_t>(length), std::vector<int64_t>(all, 1))}};
}

Plan column(const Plan& plan, size_t s) {
  Plan out;
  for (const std::vector<int64_t>& step : plan) out.push_back({step[s]});
  return out;
}

}  // namespace carousel::verify
