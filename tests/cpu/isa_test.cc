// SPDX-License-Identifier: Apache-2.0
// Names of instruction sets, and the ones this machine runs.
#include "carousel/cpu/isa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "carousel/core/error.h"
#include "tests/isas.h"

namespace carousel {
namespace {

TEST(Isa, NamesReadBack) {
  const std::vector<Isa> isas = tested_isas();
  ASSERT_FALSE(isas.empty());
  EXPECT_EQ(isas.front(), Isa::kPortable);
  EXPECT_EQ(isas.back(), cpu::best_isa());
  const std::vector<Isa> built = cpu::built_isas();
  for (const Isa isa : isas) {
    EXPECT_EQ(cpu::parse_isa(cpu::isa_name(isa)), isa);
    EXPECT_EQ(std::count(built.begin(), built.end(), isa), 1) << cpu::isa_name(isa);
  }
}

TEST(Isa, UnknownNameListsTheKnown) {
  try {
    cpu::parse_isa("avx1024");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("portable"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace carousel
