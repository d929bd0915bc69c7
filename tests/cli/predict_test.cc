// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "carousel/core/json.h"
#include "carousel/formats/npy.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

constexpr const char* kLtc = R"({"model_type": "ltc", "input_size": 2,
  "wiring": {"type": "AutoNCP", "units": 12, "output_size": 3, "seed": 5}})";
constexpr const char* kCfc = R"({"model_type": "cfc", "input_size": 2, "units": 7, "mixed_memory": true,
  "proj_size": 3, "backbone_units": 9, "backbone_layers": 3, "backbone_dropout": 0.1})";
constexpr const char* kWiredCfc = R"({"model_type": "cfc", "input_size": 2, "mode": "pure",
  "wiring": {"type": "NCP", "inter_neurons": 5, "command_neurons": 4, "motor_neurons": 3, "sensory_fanout": 2,
             "inter_fanout": 2, "recurrent_command_synapses": 3, "motor_fanin": 2}})";

/// Rows "x0,x1,dt" of one sequence.
std::string rows(int first, int last) {
  std::string text;
  for (int n = first; n < last; ++n) text += std::to_string(n % 5) + ",-0." + std::to_string(n) + ",0.5\n";
  return text;
}

class PredictModel : public testing::TestWithParam<const char*> {};

TEST_P(PredictModel, FileStdinAndTwoRunsGiveTheSameBytes) {
  const Scratch scratch;
  const std::string model = init_model(scratch, GetParam());
  write_file(scratch / "x.csv", "a,b,dt\n" + rows(0, 20));
  const std::string start = "predict " + model + " --timespans last ";
  const Ran whole = run_carousel(start + "--input " + (scratch / "x.csv"));
  ASSERT_EQ(whole.status, 0) << whole.err;
  EXPECT_EQ(std::count(whole.out.begin(), whole.out.end(), '\n'), 20);
  const Ran streamed = run_carousel(start, "a,b,dt\n" + rows(0, 20));
  EXPECT_EQ(streamed.out, whole.out) << streamed.err;
  const Ran first = run_carousel(start + "--save-state " + (scratch / "state"), rows(0, 7));
  const Ran second = run_carousel(start + "--load-state " + (scratch / "state"), rows(7, 20));
  EXPECT_EQ(first.out + second.out, whole.out) << first.err << second.err;
  const Ran over = run_carousel(start + "--input " + (scratch / "x.csv") + " --output " + (scratch / "x.csv"));
  EXPECT_EQ(over.status, 1);
  EXPECT_NE(over.err.find("the input, expected another file for the output"), std::string::npos) << over.err;
  EXPECT_EQ(read_file(scratch / "x.csv"), "a,b,dt\n" + rows(0, 20));

  const Ran info = run_carousel("info " + model);
  EXPECT_EQ(info.status, 0) << info.err;
}

INSTANTIATE_TEST_SUITE_P(Cells, PredictModel, testing::Values(kLtc, kCfc, kWiredCfc));

TEST(Predict, ABatchOfArraysEqualsItsSequences) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc);
  Tensor x(Shape{3, 6, 2}, DType::kF32), times(Shape{3, 6}, DType::kF32);
  for (int64_t i = 0; i < x.count(); ++i) x.f32()[i] = static_cast<float>(i % 7) - 3;
  for (int64_t i = 0; i < times.count(); ++i) times.f32()[i] = 0.25f * static_cast<float>(i % 4);
  formats::write_npy(scratch / "x.npy", x);
  formats::write_npy(scratch / "t.npy", times);
  const Ran ran = run_carousel("predict " + model + " --input " + (scratch / "x.npy") + " --timespans " +
                               (scratch / "t.npy") + " --output " + (scratch / "y.npy"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Tensor y = formats::read_npy(scratch / "y.npy");
  ASSERT_EQ(y.shape(), (Shape{3, 6, 3}));
  for (int64_t s = 0; s < 3; ++s) {
    formats::write_npy(scratch / "x1.npy", x.rows(s, s + 1).reshape(Shape{6, 2}));
    formats::write_npy(scratch / "t1.npy", times.rows(s, s + 1).reshape(Shape{6}));
    const Ran alone = run_carousel("predict " + model + " --input " + (scratch / "x1.npy") + " --timespans " +
                                   (scratch / "t1.npy") + " --output " + (scratch / "y1.npy"));
    ASSERT_EQ(alone.status, 0) << alone.err;
    const Tensor one = formats::read_npy(scratch / "y1.npy");
    ASSERT_EQ(one.shape(), (Shape{6, 3}));
    EXPECT_EQ(std::memcmp(one.raw(), y.rows(s, s + 1).raw(), one.size_bytes()), 0) << "sequence " << s;
  }
}

TEST(Predict, MistakesAreNamed) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc);
  const auto error = [&](const std::string& flags, const std::string& input = "") {
    const Ran ran = run_carousel("predict " + model + " " + flags, input);
    EXPECT_NE(ran.status, 0) << ran.out;
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
    return ran.err;
  };
  EXPECT_NE(error("", "1,2\n1,2,3\n").find("stdin:2: got \"1,2,3\", expected 2 finite numbers"), std::string::npos);
  EXPECT_NE(error("", "1,nan\n").find("stdin:1: got \"1,nan\""), std::string::npos);
  EXPECT_NE(error("", "1,1e300\n").find("stdin:1"), std::string::npos);
  EXPECT_NE(error("--timespans last", "1,2,-1\n").find("expected a finite number >= 0"), std::string::npos);
  EXPECT_NE(error("--output y.npy").find("without --input"), std::string::npos);
  EXPECT_NE(error("--timespans t.npy").find("expected \"last\""), std::string::npos);
  EXPECT_NE(error("--decimal comma", "1;2\n").find("--decimal: got comma without --input"), std::string::npos);
  EXPECT_EQ(run_carousel("predict " + model, std::string(1 << 20, ',') + "\n1,2\n").status, 0) << "a blank line";
  write_file(scratch / "x.csv", "1,2,3\n");
  EXPECT_NE(error("--input " + (scratch / "x.csv")).find("shape [1, 3], expected [T, 2]"), std::string::npos);
  EXPECT_NE(error("--input " + (scratch / "x.csv") + " --output y.txt").find("ends in .npy or .csv"),
            std::string::npos);
  EXPECT_NE(error("--input " + (scratch / "x.txt")).find("ends in .npy or .csv"), std::string::npos);
  write_file(scratch / "x.npy", "not an array");
  EXPECT_NE(error("--input " + (scratch / "x.npy")).find("expected a .npy file"), std::string::npos);
  const Scratch other;
  const std::string another = init_model(other, kCfc);
  EXPECT_EQ(run_carousel("predict " + another + " --save-state " + (scratch / "state"), "1,2\n").status, 0);
  EXPECT_NE(error("--load-state " + (scratch / "state"), "1,2\n").find("state of another model"), std::string::npos);
}

// A .npy of no bytes may count any number of empty sequences.
TEST(Predict, EmptySequencesNeedNoStates) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc);
  for (const int64_t batch : {int64_t{3}, int64_t{999999999999999}}) {
    formats::write_npy(scratch / "x.npy", Tensor(Shape{batch, 0, 2}, DType::kF32));
    const Ran ran = run_carousel("predict " + model + " --input " + (scratch / "x.npy") + " --output " +
                                 (scratch / (std::to_string(batch) + ".npy")));
    ASSERT_EQ(ran.status, 0) << ran.err;
    EXPECT_EQ(formats::read_npy(scratch / (std::to_string(batch) + ".npy")).shape(), (Shape{batch, 0, 3}));
  }
}

TEST(Predict, NulBytesDoNotCutTheError) {
  const Scratch scratch;
  const Ran ran = run_carousel("predict " + init_model(scratch, kLtc), std::string("1,2\n1,2\0,3\n", 11));
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("stdin:2: a NUL byte, expected text in UTF-8\n"), std::string::npos) << ran.err;
}

TEST(Predict, TimesAreOnePerRow) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc);
  write_file(scratch / "x.csv", "1,2\n3,4\n5,6\n7,8\n");
  const auto timed = [&](const std::string& times) {
    write_file(scratch / "t.csv", times);
    return run_carousel("predict " + model + " --input " + (scratch / "x.csv") + " --timespans " + (scratch / "t.csv"));
  };
  const Ran column = timed("1\n2\n3\n4\n"), row = timed("1,2,3,4\n"), square = timed("1,2\n3,4\n");
  EXPECT_EQ(column.status, 0) << column.err;
  EXPECT_EQ(row.out, column.out) << row.err;
  EXPECT_EQ(square.status, 1) << square.out;
  EXPECT_NE(square.err.find("t.csv: shape [2, 2], expected one time for each of 1 x 4 rows"), std::string::npos)
      << square.err;
}

TEST(Predict, WritesOverNoInput) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc), x = scratch / "x.csv", times = scratch / "t.csv";
  write_file(x, "1,2\n3,4\n");
  write_file(times, "1\n0.5\n");
  for (const std::string& output : {x, times}) {
    const Ran ran =
        run_carousel("predict " + model + " --input " + x + " --timespans " + times + " --output " + output);
    EXPECT_EQ(ran.status, 1);
    EXPECT_NE(ran.err.find("the input, expected another file"), std::string::npos) << ran.err;
  }
  EXPECT_EQ(read_file(x), "1,2\n3,4\n");
  EXPECT_EQ(read_file(times), "1\n0.5\n");
}

TEST(Predict, SpellingsOfRowsAreAlike) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc);
  const std::string expected = run_carousel("predict " + model, "a,b\n1,0.5\n2,3\n").out;
  EXPECT_EQ(std::count(expected.begin(), expected.end(), '\n'), 2);
  const std::string bom = "\xEF\xBB\xBF";
  for (const std::string& text : {std::string("a,b\r\n1,0.5\r\n2,3\r\n"), bom + "a,b\n1,0.5\n2,3\n", bom + "1,0.5\n2,3",
                                  std::string("1,0.5,\n2,3,\n")}) {
    EXPECT_EQ(run_carousel("predict " + model, text).out, expected) << text;
  }
  for (const std::string& text :
       {std::string("a,b\r\n1,0.5\r\n2,3"), bom + "1,0.5\r\n2,3\r\n,\r\n", std::string("sep=;\na;b\n1;0.5\n2;3\n")}) {
    write_file(scratch / "x.csv", text);
    EXPECT_EQ(run_carousel("predict " + model + " --input " + (scratch / "x.csv")).out, expected) << text;
  }
  write_file(scratch / "x.csv", "a;b\n1;0,5\n2;3\n");
  EXPECT_EQ(run_carousel("predict " + model + " --decimal comma --input " + (scratch / "x.csv")).out, expected);
  EXPECT_EQ(run_carousel("predict " + model, "1,,2\n").status, 1) << "an empty cell is no blank";
  EXPECT_NE(run_carousel("predict " + model,
                         "\xFF\xFE"
                         "1")
                .err.find("stdin:1: UTF-16"),
            std::string::npos);
}

TEST(Predict, ResultsThatOverflowAreRefused) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kCfc);
  const std::string weights = model + "/model.safetensors";
  NamedTensors tensors = formats::SafetensorsFile::open(weights).load_all();
  for (NamedTensor& named : tensors) {
    for (int64_t i = 0; i < named.tensor.count(); ++i) named.tensor.f32()[i] = i % 3 == 0 ? -3e38f : 3e38f;
  }
  formats::write_safetensors(weights, tensors);
  const Ran streamed = run_carousel("predict " + model + " --save-state " + (scratch / "state"), "3e38,3e38\n");
  EXPECT_EQ(streamed.status, 1) << streamed.out;
  EXPECT_EQ(streamed.out, "");
  EXPECT_NE(streamed.err.find("stdin:1: output 0 is "), std::string::npos) << streamed.err;
  EXPECT_FALSE(std::filesystem::exists(scratch / "state"));
  write_file(scratch / "x.csv", "3e38,3e38\n");
  EXPECT_EQ(run_carousel("predict " + model + " --input " + (scratch / "x.csv")).status, 1);
}

TEST(Predict, LinesMayEndAsOtherSystemsEndThem) {
  const Scratch scratch;
  const std::string model = init_model(scratch, kLtc);
  const auto answers = [&](const std::string& input) {
    const Ran ran = run_carousel("predict " + model, input);
    EXPECT_EQ(ran.status, 0) << ran.err;
    return ran.out;
  };
  const std::string mark = "\xEF\xBB\xBF";
  const std::string plain = answers("a,b\n1,2\n\n3,4\n");
  EXPECT_EQ(std::count(plain.begin(), plain.end(), '\n'), 2);
  EXPECT_EQ(answers("a,b\r\n1,2\r\n\r\n3,4\r\n"), plain);
  EXPECT_EQ(answers(mark + "a,b\r\n1,2\r\n3,4"), plain);
  EXPECT_EQ(answers(mark + "1,2\n3,4\n"), plain);
  EXPECT_EQ(answers(mark), "");
}

TEST(Predict, WeightsInOtherTypes) {
  const Scratch scratch;
  const std::string model = init_model(scratch, R"({"model_type": "cfc", "input_size": 2, "units": 32,
    "mixed_memory": true, "proj_size": 3})");
  const auto predict = [&](const std::string& folder, const std::string& flags) {
    const Ran ran = run_carousel("predict " + folder + " " + flags, "1,2\n0.5,-1\n3,0\n");
    EXPECT_EQ(ran.status, 0) << ran.err;
    return ran.out;
  };
  const std::string own = predict(model, "");
  EXPECT_EQ(predict(model, "--weights f32"), own);
  for (const char* type : {"bf16", "q8", "q4"}) {
    const std::string out = scratch / type, flag = std::string(" ") + type;
    ASSERT_EQ(run_carousel("quantize " + model + " --type" + flag + " --out " + out).status, 0);
    EXPECT_EQ(predict(model, "--weights" + flag), predict(out, "")) << type;
    EXPECT_NE(predict(out, ""), own) << type;
  }
  EXPECT_NE(predict(model, "--gates bf16"), own);
}

TEST(Predict, TypesForWhatThereIsNotAreRefused) {
  const Scratch scratch, other;
  const auto refused = [&](const std::string& model, const std::string& flags) {
    const Ran ran = run_carousel("predict " + model + " " + flags, "1,2\n");
    EXPECT_EQ(ran.status, 2) << ran.err;
    return ran.err;
  };
  const std::string cfc = init_model(scratch, kCfc), ltc = init_model(other, kLtc);
  EXPECT_NE(refused(cfc, "--head q8").find("--head: got q8, but "), std::string::npos);
  EXPECT_NE(refused(cfc, "--embeddings f16").find("has no embeddings, expected auto"), std::string::npos);
  EXPECT_NE(refused(cfc, "--weights q4").find("has no matrix outside of its gates and cells"), std::string::npos)
      << "rows of 7";
  EXPECT_NE(refused(ltc, "--gates f16").find("(model_type \"ltc\") has no matrix of gates or cells"),
            std::string::npos);
  EXPECT_EQ(run_carousel("predict " + cfc + " --weights bf16", "1,2\n").status, 0);
}

TEST(Predict, KindsOfModelsAreNotMixedUp) {
  const Scratch scratch, language;
  const std::string cell = init_model(scratch, kLtc);
  const Ran generated = run_carousel("generate " + cell + " -p a -n 1");
  EXPECT_EQ(generated.status, 1);
  EXPECT_NE(generated.err.find("see carousel predict"), std::string::npos) << generated.err;
  const Ran predicted = run_carousel("predict " + init_model(language, kTinyXlstm), "1\n");
  EXPECT_EQ(predicted.status, 1);
  EXPECT_NE(predicted.err.find("is a language model"), std::string::npos) << predicted.err;
}

TEST(Predict, CellsWorkInsideAStack) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 16,
    "num_hidden_layers": 3, "layer_types": ["mlstm", "ncps_cfc", "ffn_only"], "mlstm_config": {"num_heads": 2},
    "ncps_config": {"wiring": {"type": "AutoNCP", "units": 20, "output_size": 4}, "mixed_memory": true}})");
  write_expected(folder, 30);
  const Ran verified = run_carousel("verify --strict " + folder);
  EXPECT_EQ(verified.status, 0) << verified.out << verified.err;
}

TEST(WiringCommand, CountsAndDraws) {
  const Scratch scratch;
  write_file(scratch / "config.json", kWiredCfc);
  const Ran ran = run_carousel("wiring " + (scratch / "config.json") + " --svg " + (scratch / "w.svg"));
  ASSERT_EQ(ran.status, 0) << ran.err;
  EXPECT_EQ(ran.out.rfind("NCP: 2 sensory, 5 inter, 4 command, 3 motor neurons; ", 0), 0u) << ran.out;
  const std::string svg = read_file(scratch / "w.svg");
  EXPECT_EQ(svg.rfind("<svg ", 0), 0u);
  size_t circles = 0;
  for (size_t at = 0; (at = svg.find("<circle", at)) != std::string::npos; ++at) ++circles;
  EXPECT_EQ(circles, 14u);
  for (const char* name : {"sensory (2)", "inter (5)", "command (4)", "motor (3)", "excitatory", "inhibitory"}) {
    EXPECT_NE(svg.find(name), std::string::npos) << name;
  }
  const Ran over = run_carousel("wiring " + scratch.path() + " --svg " + (scratch / "config.json"));
  EXPECT_EQ(over.status, 1);
  EXPECT_NE(over.err.find("the input, expected another file"), std::string::npos) << over.err;
  EXPECT_EQ(read_file(scratch / "config.json"), kWiredCfc);
  write_file(scratch / "alone.json", R"({"type": "Random", "units": 4, "sparsity_level": 0.5})");
  EXPECT_EQ(run_carousel("wiring " + (scratch / "alone.json")).status, 2) << "--inputs is needed";
  EXPECT_EQ(run_carousel("wiring " + (scratch / "alone.json") + " --inputs 3").status, 0);
  write_file(scratch / "alone.json", R"({"type": "Random", "units": 1, "sparsity_level": 0.99999})");
  const Ran many = run_carousel("wiring " + (scratch / "alone.json") + " --inputs 300000 --svg " + (scratch / "m.svg"));
  EXPECT_EQ(many.status, 1);
  EXPECT_NE(many.err.find("neurons, expected at most 200000 to draw"), std::string::npos) << many.err;
  write_file(scratch / "config.json", kTinyXlstm);
  EXPECT_NE(run_carousel("wiring " + (scratch / "config.json")).err.find("no layer has a wiring"), std::string::npos);
}

// The reference's law: w in [0.001, 1), erev the wiring's signs, the recurrent map of the memory orthonormal.
TEST(InitCells, FollowsTheReferencesDistributions) {
  const Scratch scratch, memory;
  const auto tensor = [](const std::string& folder, const char* name) {
    return formats::SafetensorsFile::open(folder + "/model.safetensors").find(name)->load();
  };
  const std::string ltc = init_model(scratch, kLtc);
  const Tensor w = tensor(ltc, "rnn_cell.w"), erev = tensor(ltc, "rnn_cell.erev"),
               mask = tensor(ltc, "rnn_cell.sparsity_mask");
  for (int64_t i = 0; i < w.count(); ++i) {
    EXPECT_GE(w.f32()[i], 0.001f);
    EXPECT_LT(w.f32()[i], 1.0f);
    EXPECT_EQ(std::abs(erev.f32()[i]), mask.f32()[i]);
  }
  const std::string cfc = init_model(memory, kCfc);
  EXPECT_NO_THROW(tensor(cfc, "rnn_cell.backbone.5.weight")) << "dropout shifts the third layer from 4 to 5";
  const Tensor recurrent = tensor(cfc, "lstm.recurrent_map.weight");  // [28, 7]
  for (int64_t a = 0; a < 7; ++a) {
    for (int64_t b = 0; b < 7; ++b) {
      double product = 0;
      for (int64_t i = 0; i < 28; ++i)
        product += double{recurrent.f32()[i * 7 + a]} * double{recurrent.f32()[i * 7 + b]};
      EXPECT_NEAR(product, a == b ? 1 : 0, 1e-6);
    }
  }
}

class PredictReference : public testing::TestWithParam<const char*> {};

TEST_P(PredictReference, VerifyAgrees) {
  const std::string folder = shared("golden/" + std::string(GetParam()));
  if (is_absent(folder)) GTEST_SKIP() << folder << " is absent";
  const Ran ran = run_carousel("verify --json " + folder);
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
  const Json reports = parse_json(ran.out, "verify");
  for (const Json& tensor : reports.at(0).at("tensors")) {
    EXPECT_EQ(tensor.at("status"), "ok") << tensor;
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, PredictReference,
                         testing::Values("ncps-cfc-default", "ncps-cfc-mixedmem", "ncps-cfc-no_gate", "ncps-cfc-pure",
                                         "ncps-ltc-autoncp", "ncps-ltc-full", "ncps-ltc-ncp", "ncps-ltc-random",
                                         "ncps-wired-cfc"));

}  // namespace
}  // namespace carousel::cli
