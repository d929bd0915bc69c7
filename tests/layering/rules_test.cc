// SPDX-License-Identifier: Apache-2.0
// The rules themselves are checked: each finds the breaches planted here, and passes what is nearly one.
#include "tests/layering/rules.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace carousel::layering {
namespace {

struct File {
  std::string path, text;
};
struct Plant {
  const char* rule;
  std::vector<std::vector<File>> breaches, near_misses;
};

std::string lines(size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += "int x;\n";
  return text;
}
const std::string kLicence = "// SPDX-License-Identifier: Apache-2.0\n";
const std::string kOpening = kLicence + "// The paths of a thing.\n";
const std::string kWord =
    "// TO"
    "DO";

std::vector<Plant> plants_of_includes() {
  return {
      {"IncludesStayInTheTable",
       {{{"carousel/ops/a/a.cc", "#include \"carousel/model/load.h\"\n"}},
        {{"carousel/core/a.cc", "#  include <carousel/text/xml.h>\n"}},
        {{"carousel/blocks/a.cc", "#include \"carousel/cpu/isa.h\"\n"}},  // a floor below, but not for blocks
        {{"carousel/generate/a.cc", "#include \"carousel/forecast/plot.h\"\n"}},
        {{"carousel/model/a.cc", "#include \"carousel/gpu/b.h\"\n"}},
        {{"carousel/gpu/a.cc", ""}}},
       {{{"carousel/ops/a/a.cc", "#include \"carousel/core/tensor.h\"\n#include \"carousel/ops/ctx.h\"\n"}},
        {{"carousel/ops/a/a.cc", "// #include \"carousel/model/load.h\"\n#include <vector>\n"}},
        {{"carousel/ops/a/a.cc", "/*\n#include \"carousel/model/load.h\"\n*/\n"}}}},
      {"KernelHeadersStayWithKernels",
       {{{"carousel/ops/moe/moe.cc", "#include \"carousel/ops/gate/gate_cpu.h\"\n"}},
        {{"carousel/ops/ctx.h", "#include \"carousel/ops/gate/gate_cpu.h\"\n"}},
        {{"carousel/blocks/moe.cc", "#include \"carousel/ops/gate/gate_cpu.h\"\n"}}},
       {{{"carousel/ops/gate/gate.cc", "#include \"carousel/ops/gate/gate_cpu.h\"\n"}},
        {{"carousel/ops/tape.cc", "#include \"carousel/ops/tape_cpu.h\"\n"}},
        {{"carousel/ops/moe/moe_cpu.cc", "#include \"carousel/ops/gate/gate_cpu.h\"\n"}},
        {{"carousel/ops/moe/moe.cc", "#include \"carousel/ops/gate/gate.h\"\n"}}}},
      {"FamiliesOfOpsFormNoCircle",
       {{{"carousel/ops/a/a.cc", "#include \"carousel/ops/b/b.h\"\n"},
         {"carousel/ops/b/b.cc", "#include \"carousel/ops/c/c.h\"\n"},
         {"carousel/ops/c/c_cpu.cc", "#include \"carousel/ops/a/a.h\"\n"}},
        {{"carousel/ops/weight/weight.cc", "#include \"carousel/ops/linear/linear.h\"\n"}},
        {{"carousel/ops/params.h", "#include \"carousel/ops/linear/linear.h\"\n"}}},
       {{{"carousel/ops/a/a.cc", "#include \"carousel/ops/b/b.h\"\n#include \"carousel/ops/c/c.h\"\n"},
         {"carousel/ops/b/b.cc", "#include \"carousel/ops/c/c.h\"\n"},
         {"carousel/ops/c/c.cc", "#include \"carousel/ops/c/c.h\"\n#include \"carousel/ops/ctx.h\"\n"}},
        {{"carousel/ops/params.h", "#include \"carousel/ops/weight/weight.h\"\n"}},
        {{"carousel/ops/weight/weight.cc", "#include \"carousel/ops/params.h\"\n"}}}},
      {"IncludesAreByFullPath",
       {{{"carousel/ops/a/a.cc", "#include \"a.h\"\n"}}},
       {{{"carousel/ops/a/a.cc", "#include \"carousel/ops/a/a.h\"\n#include <a.h>\n"}}}},
      {"OnlyCudaSeesCudaHeaders",
       {{{"carousel/core/a.cc", "#include <cuda_runtime.h>\n"}}, {{"carousel/ops/a/a_cpu.cc", "#include <nccl.h>\n"}}},
       {{{"carousel/ops/a/a_cuda.cu", "#include <cuda_runtime.h>\n"}},
        {{"carousel/cuda/a.h", "#include <cublas_v2.h>\n"}}}},
      {"OnlyMpiSeesMpiHeaders",
       {{{"carousel/train/a.cc", "#include <mpi.h>\n"}}},
       {{{"carousel/mpi/a.cc", "#include <mpi.h>\n#include \"carousel/mpi/job.h\"\n"}}}},
      {"OnlyTheCommandLineSeesOptions",
       {{{"carousel/bench/a.cc", "#include <CLI/CLI.hpp>\n"}}},
       {{{"carousel/cli/a.cc", "#include <CLI/CLI.hpp>\n"}}}},
  };
}

std::vector<Plant> plants_of_text() {
  return {
      {"OnlyTheCommandLineTalksToTheProcess",
       {{{"carousel/core/a.cc", "x = std::getenv(\"HOME\");\n"}},
        {{"carousel/bench/a.cc", "printf(\"%d\", n);\n"}},
        {{"carousel/text/a.cc", "std::cerr << 1;\n"}},
        {{"carousel/text/a.cc", "  ::exit(1);\n"}},
        {{"carousel/text/a.cc", "fmt::print(\"x\");\n"}},
        {{"carousel/cli/a.cc", "std::abort();\n"}}},
       {{{"carousel/cli/a.cc", "std::printf(\"%d\", n); exit(1);\n"}},
        {{"carousel/text/a.cc", "// exit(1)\nx = \"exit(1)\"; snprintf(p); on_exit(1); a.exit(1);\n"}}}},
      {"NothingBanned",
       {{{"carousel/core/a.cc", "std::regex r;\n"}}, {{"carousel/core/a.cc", "n = rand();\n"}}},
       {{{"carousel/core/a.cc", "text::Regex r; n = grand(1); // std::regex\n"}}}},
      {"QuestionsOfDeviceHaveTheirPlaces",
       {{{"carousel/ops/gate/gate.cc", "if (memory.device() == Device::kCuda) return;\n"}},
        {{"carousel/model/lm.cc", "#ifdef CAROUSEL_CUDA\n"}}},
       {{{"carousel/ops/kernel.h", "case Device::kCuda:\n"}}, {{"carousel/cuda/gpu.h", "return Device::kCuda;\n"}}}},
      {"NoUsingNamespace",
       {{{"carousel/core/a.cc", "using  namespace std;\n"}}},
       {{{"carousel/core/a.cc", "using std::string; // not using namespace std\n"}}}},
      {"EveryFileSaysItsLicence",
       {{{"carousel/core/a.cc", ""}}, {{"tests/core/a_test.cc", "// A test\n"}}},
       {{{"carousel/core/a.cc", kLicence}}}},
      {"HeadersGuardAndExplainThemselves",
       {{{"carousel/core/a.h", kOpening}}, {{"carousel/core/a.h", kLicence + "#pragma once\n"}}},
       {{{"carousel/core/a.h", kOpening + "#pragma once\n"}}, {{"carousel/core/a.cc", kLicence}}}},
      {"SourcesOpenWithWhatTheyAre",
       {{{"carousel/core/a.cc", kLicence + lines(40)}}, {{"carousel/core/a.cc", kLicence + "//\n" + lines(40)}}},
       {{{"carousel/core/a.cc", kLicence + lines(39)}}, {{"carousel/core/a.cc", kOpening + lines(100)}}}},
      {"TodosCarryAnIssueNumber",
       {{{"carousel/core/a.cc", kWord + ": later\n"}}, {{"tests/core/a.cc", kWord + "(me): later\n"}}},
       {{{"carousel/core/a.cc", kWord + "(#12): later\n// to do\n"}}}},
      {"FilesFitASitting",
       {{{"carousel/core/a.cc", kOpening + lines(399)}},
        {{"carousel/ops/a/a_cpu.cc", kOpening + lines(599)}},
        {{"carousel/ops/a/a_cpu.h", kOpening + lines(399)}},
        {{"carousel/core/a.cc", kOpening + "// Longer than 400 lines: yes\n" + lines(500)}},
        {{"carousel/core/a.cc", kOpening + lines(1) + "// Longer than 400 lines: it is one table\n" + lines(500)}},
        {{"carousel/core/a.cc", kOpening + "// Longer than 400 lines: it is one table\n" + lines(5)}},
        {{"carousel/core/a.cc", std::string(141, 'x')}}},
       {{{"carousel/core/a.cc", kOpening + lines(398)}},
        {{"carousel/ops/a/a_cpu.cc", kOpening + lines(598)}},
        {{"carousel/core/a.cc", kOpening + "// Longer than 400 lines: it is one table\n" + lines(500)}},
        {{"carousel/core/a.cc", std::string(140, 'x')}}}},
      {"FilesHaveTellingNames",
       {{{"carousel/core/utils.h", ""}}, {{"carousel/ops/a/a_v2.cc", ""}}, {{"carousel/ops/ops.h", ""}}},
       {{{"carousel/core/utility_bill.h", ""}}, {{"carousel/ops/a/a_view.cc", ""}}}},
      {"TheNamespaceIsTheFolder",
       {{{"carousel/text/a.cc", "namespace carousel::model {\n"}}},
       {{{"carousel/text/a.cc", "namespace carousel::text {\n"}},
        {{"carousel/core/a.cc", "namespace carousel {\n"}},
        {{"carousel/ops/a/a_cpu.cc", "namespace carousel::cpu::CAROUSEL_ISA {\n"}}}},
  };
}

std::vector<Plant> plants_of_functions() {
  const std::string six = "int a, int b, int c, int d, int e, int f";
  return {
      {"FilesCanBeParsed",
       {{{"carousel/core/a.cc", "void f() {\n"}}, {{"carousel/core/a.cc", "int x = (1];\n"}}},
       {{{"carousel/core/a.cc", "#ifdef A\nvoid f() {\n#else\nvoid g() {\n#endif\n}\n"}},
        {{"carousel/core/a.cc", "#define OPEN {\\\n{\nchar c = '{'; // {\n"}}}},
      {"FunctionsFitAScreen",
       {{{"carousel/core/a.cc", "void f() {\n" + lines(59) + "}\n"}},
        {{"carousel/core/a.cc", "struct A {\n  explicit A(int x)\n : x_(x), y_{x} {\n" + lines(59) + "}\n};\n"}},
        {{"carousel/core/a.cc", "const auto f = [](int x) {\n" + lines(59) + "};\n"}},
        {{"carousel/core/a.cc", "bool A::operator()(int x) const {\n" + lines(59) + "}\n"}},
        {{"carousel/core/a.cc", "auto f(int x) noexcept(true) -> std::vector<int>\n{\n" + lines(59) + "}\n"}},
        {{"carousel/ops/a/a_cpu.cc", "void f() {\n" + lines(119) + "}\n"}}},
       {{{"carousel/core/a.cc", "void f() {\n" + lines(58) + "}\nvoid g() {\n" + lines(58) + "}\n"}},
        {{"carousel/core/a.cc", "template <class T>\nvoid f() {\n" + lines(58) + "}\n"}},
        {{"carousel/core/a.cc", "struct A {\n" + lines(90) + "};\nconst int k[] = {\n" + lines(90) + "};\n"}},
        {{"carousel/core/a.cc", "namespace a {\nextern \"C\" {\n" + lines(90) + "}\n}\n"}},
        {{"carousel/ops/a/a_cpu.cc", "void f() {\n" + lines(118) + "}\n"}}}},
      {"ParametersAreSixAtMost",
       {{{"carousel/core/a.h", "void f(" + six + ", int g);\n"}},
        {{"carousel/core/a.h", "struct A {\n  A(" + six + ", int g = 1) : a_(a) {}\n};\n"}},
        {{"carousel/core/a.cc", "void f(" + six + ",\n  int g) {}\n"}},
        {{"carousel/core/a.cc", "void f() { const auto g = [&](" + six + ", int h) { return a; }; }\n"}},
        {{"carousel/core/a.cc", "void f() { struct B { void g(" + six + ", int h) {} }; }\n"}},
        {{"carousel/core/a.h", "bool operator()(" + six + ", int g) const;\n"}},
        {{"carousel/core/a.h", "struct A { void (*run)(" + six + ", int g) = nullptr; };\n"}},
        {{"carousel/core/a.h", "template <class T, class U>\nT f(" + six + ", std::map<T, U> g = {});\n"}},
        {{"carousel/core/a.h", "void f(" + six + ", int g = 1 < 2, int h = 2);\n"}}},
       {{{"carousel/core/a.h", "void f(" + six + ");\nvoid g(void);\n"}},
        {{"carousel/core/a.h", "void f(std::map<int, std::pair<int, int>> a, " + six.substr(7) + ");\n"}},
        {{"carousel/core/a.h", "void f(void (*a)(" + six + "), " + six.substr(7) + ");\n"}},
        {{"carousel/core/a.h", "void f(std::function<void(" + six + ")> a = g(1, 2, 3), int b = {});\n"}},
        {{"carousel/core/a.h", "template <int A, int B, int C, int D, int E, int F, int G>\nvoid f();\n"}},
        {{"carousel/core/a.cc", "void f() {\n  g(1, 2, 3, 4, 5, 6, 7);\n  int a[] = {1, 2, 3, 4, 5, 6, 7};\n}\n"}},
        {{"carousel/core/a.cc", "const std::vector<int> k = {1, 2, 3, 4, 5, 6, 7, h(1, 2, 3, 4, 5, 6, 7)};\n"}},
        {{"carousel/core/a.cc", "A::A() : b_(1, 2, 3, 4, 5, 6, 7), c_{1, 2, 3, 4, 5, 6, 7} {}\n"}},
        {{"carousel/ops/a/a_cpu.cc", "void f(" + six + ", int g) {}\n"}}}},
  };
}

// Spelling has a plant per folder: general code, families, GGUF, formats.
Plant plant_of_spelling() {
  Plant plant = {"SpellingIsTheFamilies", {}, {}};
  const std::string general = "carousel/model/load.cc", gguf = "carousel/model/gguf/config.cc";
  for (const char* line : {R"(find("backbone.out_norm.weight");)", R"(x = fmt::format("model.layers.{}.norm", i);)",
                           R"(const char* k = "blk.0.ffn_gate.weight";)", R"(ends_with(".feed_forward.w1.weight");)",
                           R"(find("token_embd.weight");)", R"(if (name == "rope_freqs.weight") continue;)",
                           R"(if (config.model_type == "tirex") x();)", R"(if (json["model_type"] != "xlstm") x();)",
                           R"(return arch == "lfm2" ? a : b;)", R"(if (model_type.starts_with("lfm2")) x();)"}) {
    plant.breaches.push_back({{general, line}});
    plant.near_misses.push_back({{"carousel/model/families/lfm2.cc", line}});
  }
  plant.breaches.push_back({{gguf, R"({"full_attention.q_proj.", "attn_q."},)"}});
  plant.breaches.push_back({{gguf, R"(if (arch == "llama") llama(out);)"}});
  plant.near_misses.push_back({{gguf, R"(if (name == "embeddings.weight") return {{"token_embd.weight"}};)"}});
  plant.near_misses.push_back({{"carousel/formats/gguf.cc", R"(find("blk.0.attn_q.weight");)"}});
  for (const char* line :
       {"// as backbone.blocks.3 has it", R"(p.param(fmt::format("backbone.{}", l));)", R"(name == "lm_head.weight";)",
        R"(find("layers.0.ffn.gate.weight");)", R"(#include "carousel/ops/linear/feed_forward.h")",
        "if (model_type == family.model_type) x();"}) {
    plant.near_misses.push_back({{general, line}});
  }
  return plant;
}

const std::vector<Plant>& plants() {
  static const std::vector<Plant> kPlants = [] {
    std::vector<Plant> all = {plant_of_spelling()};
    for (const std::vector<Plant>& part : {plants_of_includes(), plants_of_text(), plants_of_functions()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return kPlants;
}

Breaches check(const Rule& rule, const std::vector<File>& files) {
  Sources sources;
  for (const File& file : files) sources.push_back(read_source(file.path, file.text));
  return rule.check(sources);
}

std::string shown(const std::vector<File>& files) {
  std::string text;
  for (const File& file : files) text += file.path + "\n" + file.text.substr(0, 300);
  return text;
}

TEST(LayeringRules, EveryRuleFindsItsPlantedBreaches) {
  std::set<std::string> planted;
  for (const Plant& plant : plants()) planted.insert(plant.rule);
  for (const Rule& rule : rules()) {
    EXPECT_EQ(planted.count(rule.name), 1u) << rule.name << ": no breach is planted";
    for (const Plant& plant : plants()) {
      if (rule.name != plant.rule) continue;
      EXPECT_FALSE(plant.breaches.empty() || plant.near_misses.empty()) << rule.name;
      for (const auto& files : plant.breaches) EXPECT_FALSE(check(rule, files).empty()) << rule.name << shown(files);
      for (const auto& files : plant.near_misses) {
        for (const Breach& breach : check(rule, files)) ADD_FAILURE() << rule.name << breach.message << shown(files);
      }
    }
  }
}

TEST(LayeringRules, ABreachSaysWhere) {
  const Sources sources = {
      read_source("carousel/core/a.cc", "// one\nint a;\nvoid f(int, int, int, int, int, int, int);")};
  const Breaches breaches = parameters_are_six_at_most(sources);
  ASSERT_EQ(breaches.size(), 1u);
  EXPECT_EQ(breaches[0].path, "carousel/core/a.cc");
  EXPECT_EQ(breaches[0].line, 3u);
  EXPECT_EQ(breaches[0].subject, "f");
}

TEST(LayeringRules, CommentsAndLiteralsAreNotCode) {
  const auto code = [](const std::string& text) { return read_source("a.cc", text).code; };
  using Lines = std::vector<std::string>;
  EXPECT_EQ(code("a(\"x // \\\" y\", 'b'); // exit("), Lines{"a(, ); "});
  EXPECT_EQ(code("n = 1'000; c = 'x';"), Lines{"n = 1'000; c = ;"});
  EXPECT_EQ(code("a /* b\nc */ d\n"), (Lines{"a ", " d"}));
  EXPECT_EQ(code("a = R\"x(\" // )\" \n{)x\"; b\n"), (Lines{"a = ", "; b"}));
  EXPECT_EQ(read_source("a.cc", "f(\"a.b\", \"c\\\"d\"); // \"e\"").text, Lines{"a.b c\\d "});
  EXPECT_EQ(read_source("a.cc", "a\n\nb\n").lines, (Lines{"a", "", "b"}));
}

}  // namespace
}  // namespace carousel::layering
