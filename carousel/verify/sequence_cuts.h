// SPDX-License-Identifier: Apache-2.0
// The ways to cut a batch of sequences of one length into forwards. All of them must compute the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace carousel::verify {

/// [step][sequence]: how many tokens the sequence takes in that step; 0 is allowed.
using Plan = std::vector<std::vector<int64_t>>;

struct Way {
  const char* name;
  Plan plan;
};

/// The ways: in one piece, in random pieces (the same at every call), token by token.
std::vector<Way> ways(int64_t batch, int64_t length);

/// The plan of sequence s alone.
Plan column(const Plan& plan, size_t s);

}  // namespace carousel::verify
