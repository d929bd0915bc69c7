// SPDX-License-Identifier: Apache-2.0
// bench --serve as a command. What it measures is tested in tests/serve/measure_test.cc.
#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

TEST(BenchServe, AServerIsMeasuredBesideTheModel) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const Ran ran = run_carousel("bench " + folder + " --serve --only stored,disconnect -r 2 -t 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json lines = parse_json(ran.out, "bench").at("serving");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0].at("name"), "stored");
  EXPECT_EQ(lines[0].at("served").size(), 2u);
  EXPECT_EQ(lines[1].at("bound"), 1);
  const Ran table = run_carousel("bench " + folder + " --serve --only disconnect -r 1 -t 1");
  EXPECT_NE(table.out.find("disconnect to freed sequence"), std::string::npos) << table.out;

  EXPECT_EQ(run_carousel("bench --serve").status, 2);
  EXPECT_EQ(run_carousel("bench " + folder + " --serve --train").status, 2);
  EXPECT_EQ(run_carousel("bench " + folder + " --only seen").status, 2);
  EXPECT_EQ(run_carousel("bench " + folder + " --serve --only nothing").status, 2);
}

}  // namespace
}  // namespace carousel::cli
