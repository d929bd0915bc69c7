// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "carousel/core/json.h"
#include "carousel/cpu/bounds.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

// Bytes of kTinyXlstm's state: 2 layers of 2 heads of C [8, 16], n [8] and m.
constexpr double kTinyXlstmState = 2 * 2 * (8 * 16 + 8 + 1) * 4;

TEST(Bench, BoundsAlone) {
  const Ran ran = run_carousel("bench --bounds -r 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json bounds = parse_json(ran.out, "bench").at("bounds");
  EXPECT_GT(bounds.at("read_gb_per_s").get<double>(), 0);
  EXPECT_GT(bounds.at("f32_gflop_per_s").get<double>(), 0);
  EXPECT_NE(ran.err.find("load average"), std::string::npos) << ran.err;
}

TEST(Bench, TableHasALinePerTest) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed);
  const Ran ran = run_carousel("bench " + folder + " -p 16,32 -n 4 -d 0,8 -r 2 -t 1");
  ASSERT_EQ(ran.status, 0) << ran.err;
  for (const char* test : {" pp16 |", " pp32 |", " tg4 |", " pp16 @ d8 |", " pp32 @ d8 |", " tg4 @ d8 |"})
    EXPECT_NE(ran.out.find(test), std::string::npos) << test << "\n" << ran.out;
  EXPECT_NE(ran.out.find("carousel F32"), std::string::npos) << ran.out;
}

TEST(Bench, MemoryAndRejectedSamplesAreSaid) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed);
  const Ran ran = run_carousel("bench " + folder + " -p 4 -n 2 -r 2 -t 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json tests = parse_json(ran.out, "bench").at("tests");
  for (const Json& test : tests) {
    EXPECT_GT(test.at("peak_bytes").get<int64_t>(), test.at("size_bytes").get<int64_t>());
    EXPECT_LT(test.at("peak_bytes").get<int64_t>(), int64_t{256} << 20) << "the bounds' own memory is not counted";
    EXPECT_LE(test.at("samples").size() + test.at("rejected").get<size_t>(), 6u);
    EXPECT_GE(test.at("samples").size(), 1u);
  }
}

// The floor of a prompt's time: q8 products at the int8 peak and the cells at that of f32.
TEST(Bench, APromptsOperationsAreThoseOfProductsAndCells) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const Ran ran = run_carousel("bench " + folder + " -p 64 -n 0 -r 1 -t 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json test = parse_json(ran.out, "bench").at("tests").at(0);
  const double per_token = test.at("gflop_per_s").get<double>() / test.at("tokens_per_s").get<double>() * 1e9;
  const double cell = 2 * (4 * 8 * 16 + 65 * (8 + 16));                               // 2 heads of dk 8 and dv 16
  const double block = 2 * 32 * (16 + 16 + 32 + 32 + 2 + 2 + 32) + 2 * 3 * 32 * 128;  // q k v o i f out, and the FFN
  const double head = 2.0 * 32 * 256 / 64;                                            // for the last row
  EXPECT_NEAR(per_token, 2 * (cell + block) + head, 1e-6 * per_token);
}

TEST(Bench, CountsWhatATokenReads) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const Ran ran = run_carousel("bench " + folder + " -p 0 -n 4 -r 1 -t 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json test = parse_json(ran.out, "bench").at("tests").at(0);
  EXPECT_EQ(test.at("test"), "tg4");
  const double per_token = test.at("gb_per_s").get<double>() / test.at("tokens_per_s").get<double>() * 1e9;
  // All weights but the table, one row of that, and the state in and out.
  const double expected = test.at("size_bytes").get<double>() - 256 * 32 * 4 + 32 * 4 +
                          2 * kTinyXlstmState;  // one sample: median is the mean
  EXPECT_NEAR(per_token, expected, 1e-6 * expected);
}

// Weights are read once per forward, whatever the number of sequences; each has a state of its own.
TEST(Bench, SequencesDecodedSideBySideShareTheWeights) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const Ran ran = run_carousel("bench " + folder + " -p 8 -n 4 --batch 1,3,70 -r 1 -t 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json tests = parse_json(ran.out, "bench").at("tests");
  ASSERT_EQ(tests.size(), 4u);
  EXPECT_EQ(tests[0].at("test"), "pp8");
  const char* const names[] = {"tg4", "tg4 x 3", "tg4 x 70"};
  for (size_t i = 0; i < 3; ++i) {
    const Json& test = tests[i + 1];
    EXPECT_EQ(test.at("test"), names[i]);
    const auto batch = test.at("batch").get<double>();
    const double per_forward = batch * test.at("gb_per_s").get<double>() / test.at("tokens_per_s").get<double>() * 1e9;
    const double expected = test.at("size_bytes").get<double>() - 256 * 32 * 4 + 32 * 4 + batch * 2 * kTinyXlstmState;
    EXPECT_NEAR(per_forward, expected, 1e-6 * expected) << names[i];
    EXPECT_GT(test.at("percent_of_bound").get<double>(), 0);
    EXPECT_EQ(test.at("above_bound").get<bool>(), test.at("percent_of_bound").get<double>() > 100);
  }
}

TEST(Bench, AModelThatLiesInTheCacheIsMarked) {
  if (cpu::last_level_cache_bytes() < (size_t{1} << 20)) GTEST_SKIP() << "the system does not tell of a cache";
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const Ran ran = run_carousel("bench " + folder + " -p 0 -n 2 -r 1 -t 1");
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_NE(ran.out.find(" c |"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("c what a token reads fits into the last level of cache"), std::string::npos) << ran.out;
}

TEST(Bench, ATokenReadsOnlyTheChosenExperts) {
  const Scratch scratch;
  write_file(scratch / "config.json",
             R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32, "layer_types": ["ffn_only"],
                 "ffn_config": {"type": "moe"}, "moe_config": {"num_experts": 8, "intermediate_size": 64}})");
  const Ran ran = run_carousel("bench " + (scratch / "config.json") + " --random -p 0 -n 2 -r 1 -t 1 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json test = parse_json(ran.out, "bench").at("tests").at(0);
  const auto unread = int64_t{6} * 3 * 32 * 64;  // 2 of 8 experts are chosen
  EXPECT_EQ(test.at("parameters").get<int64_t>() - test.at("active_parameters").get<int64_t>(), unread);
  EXPECT_EQ(test.at("size_bytes").get<int64_t>() - test.at("weight_bytes_per_token").get<int64_t>(),
            4 * (unread + 255 * 32));  // and one row of the table
}

TEST(Bench, RandomWeightsNeedNoCheckpoint) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyLfm2);
  const std::string start = "bench " + (scratch / "config.json") + " -p 8 -n 2 -r 1 -t 1";
  const Ran ran = run_carousel(start + " --random --weights bf16");
  EXPECT_EQ(ran.status, 0) << ran.err;
  EXPECT_NE(ran.out.find("lfm2 BF16"), std::string::npos) << ran.out;
  EXPECT_EQ(run_carousel(start).status, 1) << "no weights";
}

// Every op that forwards of these models call has a shape and a least time.
TEST(Bench, OpsOfAForwardAreSetBesideTheirBounds) {
  const Scratch scratch;
  const char* const all = R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32,
    "layer_types": ["mlstm", "slstm", "conv", "full_attention", "mlstm_v1", "sliding_attention", "ncps_cfc", "ncps_ltc", "ffn_only"],
    "ffn_config": {"type": "moe"}, "moe_config": {"num_experts": 4, "intermediate_size": 64}})";
  for (const char* config : {all, kTinyLfm2, kTinyXlstm}) {
    write_file(scratch / "config.json", config);
    const Ran ran = run_carousel("bench " + (scratch / "config.json") +
                                 " --random --kernels -p 8 -n 5,9 -d 3 --batch 1,4 -r 2 -t 1 --json");
    ASSERT_EQ(ran.status, 0) << ran.err;
    const Json tests = parse_json(ran.out, "bench").at("kernels");
    ASSERT_EQ(tests.size(), 3u);
    EXPECT_EQ(tests.at(0).at("tokens"), 8);
    EXPECT_EQ(tests.at(2).at("tokens"), 1) << "of each sequence, whatever -n is";
    for (const Json& test : tests) {
      double percent = 0;
      for (const Json& kernel : test.at("kernels")) {
        percent += kernel.at("percent_of_ops").get<double>();
        EXPECT_TRUE(kernel.contains("bound")) << kernel.dump();
        EXPECT_NE(kernel.at("shape"), "") << kernel.dump();
      }
      EXPECT_GT(percent, 50) << "medians, so not 100";
      EXPECT_LT(percent, 150);
    }
  }
}

TEST(Bench, TheTenLongestOpsAreShown) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyMixed);
  const std::string start = "bench " + (scratch / "config.json") + " --random -p 8 -n 0 -r 1 -t 1 --kernels";
  const Ran ran = run_carousel(start);
  ASSERT_EQ(ran.status, 0) << ran.err;
  const size_t table = ran.out.find("ops of a prompt of 8 after 0: ");
  ASSERT_NE(table, std::string::npos) << ran.out;
  // A busy machine has shares above the bound, and a note below the table that says so.
  const size_t note = ran.out.find("\n> above the bound", table);
  const std::string lines = ran.out.substr(table, note == std::string::npos ? note : note + 1 - table);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1 + 1 + 10 + 1) << lines;
  EXPECT_NE(lines.find("\n  others "), std::string::npos) << lines;
  EXPECT_EQ(run_carousel("bench --kernels --bounds").status, 2);
  EXPECT_EQ(run_carousel(start + " --train").status, 2);
}

TEST(Bench, TrainingSteps) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyLfm2);
  const Ran ran =
      run_carousel("bench " + (scratch / "config.json") + " --train --batch 2 --rows 9 --recompute -r 1 -t 2 --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json lines = parse_json(ran.out, "bench").at("training");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_GT(lines[0].at("tokens_per_s").get<double>(), 0);
  EXPECT_GT(lines[0].at("percent_of_peak").get<double>(), 0);
  EXPECT_EQ(run_carousel("bench --train").status, 2);
}

TEST(Bench, AnOpAndItsGradient) {
  for (const char* op :
       {"slstm --heads 2 --head-dim 16", "mlstm --heads 2 --head-dim 16", "linear --in 48 --out 32",
        "short_conv --in 32", "attention --heads 4 --head-dim 16", "norm --in 64", "gated_unit --in 40",
        "block_linear --in 48 --head-dim 6", "moe --in 32 --out 24", "cfc --in 3 --out 10", "ltc --in 3 --out 10",
        "soft_cap --in 40", "gate_heads --in 48 --head-dim 6", "head_norm --in 48 --head-dim 12",
        "embedding --in 32 --out 50", "head --in 32 --out 50"}) {
    const Ran ran = run_carousel(std::string("bench --op ") + op + " --rows 70 --backward -r 1 -t 2 --json");
    ASSERT_EQ(ran.status, 0) << ran.err;
    const Json line = parse_json(ran.out, "bench").at("ops")[0];
    const double seconds = line.at("backward_seconds").get<double>(), ratio = line.at("backward_ratio").get<double>();
    if (line.at("op") == "head") continue;  // a difference of two times, which may be below 0
    EXPECT_GT(seconds, 0) << op;
    EXPECT_GT(ratio, 0) << op;
  }
  EXPECT_EQ(run_carousel("bench --op linear --weights bf16 --backward").status, 2);
}

TEST(Bench, AnOpBesideItsBound) {
  struct Op {
    const char* flags;
    std::vector<std::string> shapes;
  };
  const Op ops[] = {
      {"slstm --heads 2 --head-dim 16 --batch 1,3 --rows 8", {"B=1 T=8 H=2 d=16", "B=3 T=8 H=2 d=16"}},
      {"mlstm --heads 2 --head-dim 8", {"B=1 T=1 H=2 dk=8 dv=16", "B=1 T=512 H=2 dk=8 dv=16"}},
      {"linear --in 40 --out 33 --rows 1,5 --weights bf16", {"N=1 K=40 M=33 BF16", "N=5 K=40 M=33 BF16"}},
      {"linear --in 40 --out 33 --rows 1 --sparsity 0,90", {"N=1 K=40 M=33 F32", "N=1 K=40 M=33 F32 90% masked"}},
      {"short_conv --in 24 --taps 4 --rows 6", {"B=1 T=6 D=24 K=4"}},
      {"attention --heads 4 --head-dim 8 --rows 3 -d 0,70", {"B=1 T=3@0 H=4 G=1 d=8", "B=1 T=3@70 H=4 G=1 d=8"}},
      {"norm --in 50 --batch 2 --rows 2", {"N=4 D=50"}},
      {"gated_unit --in 20 --rows 3", {"N=3 F=20"}},
      {"block_linear --in 48 --rows 3", {"N=3 D=48 block=4"}},
      {"moe --in 32 --out 24 --rows 1", {"N=1 D=32 F=24 E=8 k=2"}},
      {"cfc --in 3 --out 10 --batch 2 --rows 4", {"B=2 T=4 I=3 H=10"}},
      {"ltc --in 3 --out 10 --rows 4", {"B=1 T=4 I=3 H=10"}},
  };
  for (const Op& op : ops) {
    const Ran ran = run_carousel("bench --op " + std::string(op.flags) + " -r 1 -t 2 --json");
    ASSERT_EQ(ran.status, 0) << ran.err;
    const Json lines = parse_json(ran.out, "bench").at("ops");
    ASSERT_EQ(lines.size(), op.shapes.size());
    for (size_t i = 0; i < lines.size(); ++i) {
      const Json& line = lines.at(i);
      EXPECT_EQ(line.at("device"), "cpu");
      EXPECT_EQ(line.at("shape"), op.shapes[i]);
      EXPECT_GT(line.at("gflop_per_s").get<double>(), 0);
      EXPECT_GT(line.at("gb_per_s").get<double>(), 0);
      EXPECT_GT(line.at("bound_rate").get<double>(), 0);
      EXPECT_GT(line.at("percent_of_bound").get<double>(), 0);
      EXPECT_GE(line.at("samples").get<int64_t>(), 1);
    }
  }
}

TEST(Bench, AnOpTakesItsOwnFlagsOnly) {
  const Ran other = run_carousel("bench --op norm --heads 4");
  EXPECT_EQ(other.status, 2);
  EXPECT_NE(other.err.find("--heads: got 4 for --op norm, expected only --rows, --batch, --in"), std::string::npos)
      << other.err;
  const Ran masked = run_carousel("bench --op norm --sparsity 90");
  EXPECT_EQ(masked.status, 2);
  EXPECT_NE(masked.err.find("--sparsity: got 90 for --op norm, expected --op linear"), std::string::npos) << masked.err;
  const Ran typed = run_carousel("bench --op norm --weights q8");
  EXPECT_EQ(typed.status, 2);
  EXPECT_NE(typed.err.find("--weights: got q8 for --op norm, expected --op linear"), std::string::npos) << typed.err;
  const Ran head = run_carousel("bench --op linear --head q8");
  EXPECT_EQ(head.status, 2);
  EXPECT_NE(head.err.find("--head: got q8 for --op linear, expected a model"), std::string::npos) << head.err;
  const Ran both = run_carousel("bench some-model --op norm");
  EXPECT_EQ(both.status, 2);
  EXPECT_NE(both.err.find("got --op norm and a model, some-model, expected one of them"), std::string::npos)
      << both.err;
  const Ran unknown = run_carousel("bench --op gemm");
  EXPECT_EQ(unknown.status, 2);
  EXPECT_NE(unknown.err.find("--op: got \"gemm\", expected one of slstm, mlstm, linear"), std::string::npos)
      << unknown.err;
  const Ran heads = run_carousel("bench --op attention --heads 6 --kv-heads 4");
  EXPECT_EQ(heads.status, 2);
  EXPECT_NE(heads.err.find("--kv-heads: got 4 for 6 heads, expected a divisor"), std::string::npos) << heads.err;
  const Ran huge = run_carousel("bench --op linear --in 60000000 --out 60000000");
  EXPECT_EQ(huge.status, 2) << huge.err;
  EXPECT_NE(huge.err.find("expected a smaller one"), std::string::npos) << huge.err;
}

TEST(Bench, BadOptionsAreNamed) {
  EXPECT_EQ(run_carousel("bench").status, 2);
  const Ran ran = run_carousel("bench --bounds -r none");
  EXPECT_EQ(ran.status, 2);
  EXPECT_NE(ran.err.find("-r: got \"none\", expected an integer from 1 to 1000"), std::string::npos) << ran.err;
  const Ran list = run_carousel("bench --bounds -p 1,x");
  EXPECT_EQ(list.status, 2);
  EXPECT_NE(list.err.find("-p: got \"x\""), std::string::npos) << list.err;
}

}  // namespace
}  // namespace carousel::cli
