// SPDX-License-Identifier: Apache-2.0
// Every config of tests/fixtures/malformed/config gives its one message (tools/make_malformed.py).
#include <gtest/gtest.h>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/config.h"
#include "carousel/model/load.h"

namespace carousel::model {
namespace {

TEST(Malformed, Config) {
  const std::string folder = std::string(CAROUSEL_SOURCE_DIR) + "/tests/fixtures/malformed/config/";
  const Json expected = read_json_file(folder + "expected.json");
  ASSERT_GT(expected.size(), 10u);
  for (const auto& [name, message] : expected.items()) {
    try {
      measure(parse_config(read_json_file(folder + name), folder + name), folder + name);
      ADD_FAILURE() << name << " was accepted, expected: " << message;
    } catch (const Error& error) {
      const std::string got = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << name;
      EXPECT_NE(got.find(message.get<std::string>()), got.npos) << name << ": " << got << "\nexpected: " << message;
      EXPECT_EQ(got.find('\n'), got.npos) << got;
    }
  }
}

}  // namespace
}  // namespace carousel::model
