// SPDX-License-Identifier: Apache-2.0
// The ways a batch of sequences of one length is cut into forwards: they must all compute the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace carousel::verify {

/// [step][sequence]: how many tokens the sequence takes in that step; may be none.
using Plan = std::vector<std::vector<int64_t>>;

struct Way {
  const char* name;
  Plan plan;
};

/// In one piece, in random pieces (the same at every call), token by token.
std::vector<Way> ways(int64_t batch, int64_t length);

/// The plan of sequence s alone.
Plan column(const Plan& plan, size_t s);

}  // namespace carousel::verify
