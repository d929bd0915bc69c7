// SPDX-License-Identifier: Apache-2.0
// The built binary as a server beside the test.
#pragma once

#include <cstdlib>
#include <string>

#include "tests/cli/process.h"

namespace carousel::serve {

/// The port that a server says it listens at; 0: it ended.
inline int port_of(const cli::Process& server) {
  int port = 0;
  comes_true([&] {
    const std::string said = server.err(), begin = "http://127.0.0.1:";
    const size_t at = said.find(begin);
    if (at != said.npos && said.find('\n', at) != said.npos) port = std::atoi(said.c_str() + at + begin.size());
    return port != 0;
  });
  return port;
}

}  // namespace carousel::serve
