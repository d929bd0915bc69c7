// SPDX-License-Identifier: Apache-2.0
// Any bytes as the body of a request, for every endpoint that takes one: refused with an error that is JSON, or
// answered to the end. The first byte says which endpoint, and whether the client leaves at once.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tests/fuzz/served.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static auto* const served = new carousel::serve::Served;  // never destroyed: the process ends with its thread
  constexpr const char* kPaths[] = {"/v1/completions", "/v1/chat/completions", "/v1/responses",
                                    "/v1/states",      "/v1/embeddings",       "/tokenize",
                                    "/detokenize"};
  if (size == 0) return 0;
  const size_t endpoint = bytes[0] % 8;
  if (endpoint == 7) return 0;
  const std::string body(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  served->ask("POST", kPaths[endpoint], body, bytes[0] >= 128);
  return 0;
}
