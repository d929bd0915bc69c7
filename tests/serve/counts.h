// SPDX-License-Identifier: Apache-2.0
// How often tests of the server repeat what is drawn: a few times in every run, and CAROUSEL_SERVE_TIMES times as often
// where that is set (docs/serve.md says what was run so).
#pragma once

#include <cstdlib>

#include "tests/slow.h"

namespace carousel::serve {

/// `usual` times, fewer in builds that take long.
inline int times(int usual) {
  const char* const given = std::getenv("CAROUSEL_SERVE_TIMES");
  const int factor = given == nullptr ? 1 : std::atoi(given);
  const int here = usual * (factor > 0 ? factor : 1);
  return kSanitized || kEmulated ? (here + 4) / 5 : here;
}

}  // namespace carousel::serve
