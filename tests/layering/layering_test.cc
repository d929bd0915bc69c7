// SPDX-License-Identifier: Apache-2.0
// Runs the rules of the source tree (rules.h) over the repository.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "tests/layering/rules.h"

namespace carousel::layering {

void PrintTo(const Rule& rule, std::ostream* out) { *out << rule.name; }

namespace {

Breaches breaches_of(const Rule& rule) {
  Sources sources = library();
  if (rule.tests) sources.insert(sources.end(), tests().begin(), tests().end());
  return rule.check(sources);
}

bool is_excused(const Exception& exception, const Rule& rule, const Breach& breach) {
  return exception.rule == rule.name && exception.path == breach.path && exception.subject == breach.subject;
}

class Layering : public testing::TestWithParam<Rule> {};

TEST_P(Layering, Holds) {
  ASSERT_GT(library().size(), 20u) << "the sources were not found";
  const Rule& rule = GetParam();
  for (const Breach& breach : breaches_of(rule)) {
    const bool excused = std::any_of(exceptions().begin(), exceptions().end(),
                                     [&](const Exception& exception) { return is_excused(exception, rule, breach); });
    if (!excused) ADD_FAILURE_AT(breach.path.c_str(), static_cast<int>(breach.line)) << breach.message;
  }
}

TEST_P(Layering, NoExceptionIsIdle) {
  const Rule& rule = GetParam();
  const Breaches breaches = breaches_of(rule);
  for (const Exception& exception : exceptions()) {
    if (exception.rule != rule.name) continue;
    EXPECT_FALSE(exception.reason.empty());
    EXPECT_TRUE(std::any_of(breaches.begin(), breaches.end(),
                            [&](const Breach& breach) { return is_excused(exception, rule, breach); }))
        << exception.path << ", " << exception.subject << ": the exception in tests/layering/rules.cc can go";
  }
}

INSTANTIATE_TEST_SUITE_P(Rule, Layering, testing::ValuesIn(rules()),
                         [](const testing::TestParamInfo<Rule>& rule) { return rule.param.name; });

TEST(LayeringTable, GoesDown) { EXPECT_EQ(rows_that_do_not_go_down(), std::vector<std::string>()); }

TEST(LayeringTable, NoIncludeFolderBesideTheLibrary) {
  EXPECT_FALSE(std::filesystem::exists(std::filesystem::path(CAROUSEL_SOURCE_DIR) / "include"));
}

}  // namespace
}  // namespace carousel::layering
