// SPDX-License-Identifier: Apache-2.0
// The rules of the source tree, read from the sources: what may include what, and what must not appear. Floors go down
// only, and folders of one floor never see each other (docs/design.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace carousel {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, int> kFloors = {
    {"core", 1},   {"cpu", 2},    {"cuda", 2},   {"formats", 2},  {"text", 2},  {"tasks", 2},
    {"ops", 3},    {"blocks", 4}, {"model", 5},  {"generate", 6}, {"train", 6}, {"forecast", 6},
    {"verify", 7}, {"bench", 7},  {"server", 7}, {"api", 7},      {"cli", 8},
};

struct Source {
  std::string path;    // "carousel/ops/linear/linear.cc"
  std::string folder;  // "ops"; of tests: "tests"
  std::vector<std::string> lines;
  // The lines without comments and string literals, which may say anything.
  std::vector<std::string> code;
  // What the literals of each line say, a blank between two.
  std::vector<std::string> text;
};

std::string without_text(const std::string& line, std::string* text = nullptr) {
  std::string code;
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    if (quote != 0) {
      if (line[i] == quote) quote = 0;
      if (text != nullptr) *text += quote == 0 ? ' ' : line[i];
      if (quote != 0 && line[i] == '\\') ++i;
      continue;
    }
    if (line.compare(i, 2, "//") == 0) break;
    const bool digit_separator = line[i] == '\'' && i > 0 && std::isalnum(static_cast<unsigned char>(line[i - 1])) != 0;
    if (line[i] == '"' || (line[i] == '\'' && !digit_separator))
      quote = line[i];
    else
      code += line[i];
  }
  return code;
}

void add_line(Source& source, std::string line) {
  source.text.emplace_back();
  source.code.push_back(without_text(line, &source.text.back()));
  source.lines.push_back(std::move(line));
}

std::vector<Source> read_sources(const std::string& top) {
  std::vector<Source> sources;
  const fs::path root = CAROUSEL_SOURCE_DIR;
  for (const fs::directory_entry& file : fs::recursive_directory_iterator(root / top)) {
    const std::string extension = file.path().extension().string();
    if (extension != ".h" && extension != ".cc" && extension != ".cu") continue;
    Source source;
    const fs::path relative = fs::relative(file.path(), root);
    source.path = relative.generic_string();
    source.folder = top == "carousel" ? (++relative.begin())->string() : top;
    std::ifstream stream(file.path());
    for (std::string line; std::getline(stream, line);) add_line(source, std::move(line));
    sources.push_back(std::move(source));
  }
  return sources;
}

const std::vector<Source>& library() {
  static const std::vector<Source> sources = read_sources("carousel");
  return sources;
}

std::vector<Source> everything() {
  std::vector<Source> sources = library();
  const std::vector<Source> tests = read_sources("tests");
  sources.insert(sources.end(), tests.begin(), tests.end());
  return sources;
}

void expect_nowhere(const std::vector<Source>& sources, const std::string& pattern, const std::string& why,
                    const std::function<bool(const Source&)>& allowed) {
  const std::regex regex(pattern);
  for (const Source& source : sources) {
    if (allowed(source)) continue;
    for (size_t i = 0; i < source.code.size(); ++i) {
      EXPECT_FALSE(std::regex_search(source.code[i], regex)) << source.path << ":" << i + 1 << ": " << why;
    }
  }
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

TEST(Layering, IncludesGoDownOnly) {
  ASSERT_GT(library().size(), 20u) << "the sources were not found";
  const std::regex include("^\\s*#\\s*include\\s*[\"<]carousel/(([a-z_]+)/[^\">]+)");
  for (const Source& source : library()) {
    ASSERT_TRUE(kFloors.count(source.folder)) << source.path << ": folder without a floor";
    for (const std::string& line : source.lines) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string folder = match[2];
      ASSERT_TRUE(kFloors.count(folder)) << source.path << " includes " << match[1];
      EXPECT_TRUE(folder == source.folder || kFloors.at(folder) < kFloors.at(source.folder))
          << source.path << " (floor " << kFloors.at(source.folder) << ") includes carousel/" << match[1] << " (floor "
          << kFloors.at(folder) << ")";
      if (source.folder == "blocks") {
        EXPECT_TRUE(folder == "blocks" || folder == "ops" || folder == "core")
            << source.path << " includes " << match[1];
      }
    }
  }
}

TEST(Layering, IncludesAreByFullPath) {
  const std::regex relative("^\\s*#\\s*include\\s*\"(?!carousel/)");
  for (const Source& source : library()) {
    for (const std::string& line : source.lines) EXPECT_FALSE(std::regex_search(line, relative)) << source.path << line;
  }
}

TEST(Layering, OnlyCudaSeesCudaHeaders) {
  const std::regex cuda("^\\s*#\\s*include\\s*[\"<](cuda|cublas|nccl)");
  for (const Source& source : library()) {
    if (source.folder == "cuda" || ends_with(source.path, "_cuda.cu")) continue;
    for (const std::string& line : source.lines) EXPECT_FALSE(std::regex_search(line, cuda)) << source.path << line;
  }
}

bool is_in(const Source& source, const std::vector<std::string>& folders) {
  return std::any_of(folders.begin(), folders.end(),
                     [&](const std::string& folder) { return source.path.rfind(folder, 0) == 0; });
}

// Where a family's spelling stands outside its file: names of tensors as published files and GGUF have them, and
// comparisons of a model_type or an architecture with one of its values.
std::vector<std::string> foreign_spelling(const std::vector<Source>& sources) {
  const std::regex names(
      "\\bbackbone\\.[ a-z]|\\bmodel\\.(layers|embed_tokens|norm|embedding_norm)\\b|\\b(self_attn|mlp|feed_forward)\\.|"
      "_layernorm\\.|\\boperator_norm\\.|block_stack\\.|\\b[ms]lstm_layer\\.|\\bxlstm\\.(slstm|mlstm|proj|conv)|"
      "\\brnn_cell\\.|\\blstm\\.(input|recurrent)_map|_patch_embedding\\.|"
      "\\battn_(norm|q|k|v|output|[qk]_norm)\\.|\\bffn_(norm|gate|up|down)(_exps|_inp)?\\.|\\bshortconv\\.|"
      "\\bexp_probs");
  const std::regex of_any_gguf("\\bblk\\.|\\btoken_embd|\\boutput_norm\\.|\\brope_freqs\\b");
  const std::regex choice("(model_type|arch|architecture)(\"\\])?(\\.starts_with\\(|\\s*[!=]=\\s*)\"");
  std::vector<std::string> found;
  for (const Source& source : sources) {
    if (is_in(source, {"carousel/model/families/"})) continue;
    const bool format = is_in(source, {"carousel/formats/"});
    for (size_t i = 0; i < source.lines.size(); ++i) {
      if (source.code[i].rfind("#include", 0) == 0) continue;
      const std::string& text = source.text[i];
      const bool named = !format && std::regex_search(text, names);
      const bool general = !format && !is_in(source, {"carousel/model/gguf/"}) && std::regex_search(text, of_any_gguf);
      const bool chosen = std::regex_search(source.lines[i], choice);
      if (named || general || chosen) found.push_back(source.path + ":" + std::to_string(i + 1) + source.lines[i]);
    }
  }
  return found;
}

TEST(Sources, SpellingIsTheFamilies) {
  for (const std::string& breach : foreign_spelling(library())) {
    ADD_FAILURE() << breach << ": belongs to the family's file in model/families/";
  }
}

// The check itself is checked: it finds what is planted, and only where it does not belong.
TEST(Sources, SpellingElsewhereIsFound) {
  const auto found = [](const std::string& path, const std::string& line) {
    Source source;
    source.path = path;
    add_line(source, line);
    return !foreign_spelling({source}).empty();
  };
  const std::string general = "carousel/model/load.cc", gguf = "carousel/model/gguf/config.cc";
  for (const char* planted : {R"(find("backbone.out_norm.weight");)", R"(x = fmt::format("model.layers.{}.norm", i);)",
                              R"(const char* k = "blk.0.ffn_gate.weight";)", R"(ends_with(".feed_forward.w1.weight");)",
                              R"(find("token_embd.weight");)", R"(if (name == "rope_freqs.weight") continue;)",
                              R"(if (config.model_type == "tirex") x();)", R"(if (json["model_type"] != "xlstm") x();)",
                              R"(return arch == "lfm2" ? a : b;)", R"(if (model_type.starts_with("lfm2")) x();)"}) {
    EXPECT_TRUE(found(general, planted)) << planted;
    EXPECT_FALSE(found("carousel/model/families/lfm2.cc", planted)) << planted;
  }
  EXPECT_TRUE(found(gguf, R"({"full_attention.q_proj.", "attn_q."},)"));
  EXPECT_TRUE(found(gguf, R"(if (arch == "llama") llama(out);)"));
  EXPECT_FALSE(found(gguf, R"(if (name == "embeddings.weight") return {{"token_embd.weight"}};)"));
  EXPECT_FALSE(found("carousel/formats/gguf.cc", R"(find("blk.0.attn_q.weight");)"));
  for (const char* canonical :
       {"// as backbone.blocks.3 has it", R"(p.param(fmt::format("backbone.{}", l));)", R"(name == "lm_head.weight";)",
        R"(find("layers.0.ffn.gate.weight");)", R"(#include "carousel/ops/linear/feed_forward.h")",
        "if (model_type == family.model_type) x();"}) {
    EXPECT_FALSE(found(general, canonical)) << canonical;
  }
}

TEST(Layering, OnlyTheCommandLineSeesOptions) {
  const std::regex options("^\\s*#\\s*include\\s*[\"<]CLI/");
  for (const Source& source : library()) {
    if (source.folder == "cli") continue;
    for (const std::string& line : source.lines) EXPECT_FALSE(std::regex_search(line, options)) << source.path << line;
  }
}

TEST(Sources, OnlyTheCommandLineTalksToTheProcess) {
  const auto in_cli = [](const Source& source) { return source.folder == "cli"; };
  const std::string call = "(^|[^\\w.>])(std::|::)?";
  expect_nowhere(library(), call + "(getenv|secure_getenv|setenv|exit|_exit|quick_exit|system)\\s*\\(",
                 "environment and exit belong to cli/", in_cli);
  expect_nowhere(library(), call + "(printf|fprintf|puts|fputs|putchar|vprintf|perror)\\s*\\(|fmt::print",
                 "printing belongs to cli/", in_cli);
  expect_nowhere(library(), "std::(cout|cerr|clog|cin)\\b", "streams belong to cli/", in_cli);
  expect_nowhere(library(), call + "(abort|terminate)\\s*\\(", "bad input is an Error, a bug is CAROUSEL_ASSERT",
                 [](const Source& source) { return source.path == "carousel/core/error.cc"; });
}

TEST(Sources, BansOfTheStyleGuide) {
  const auto nowhere = [](const Source&) { return false; };
  expect_nowhere(everything(), "\\busing\\s+namespace\\b", "no using namespace", nowhere);
  expect_nowhere(library(), "\\bstd::regex\\b", "its recursion overflows the stack: text::Regex instead", nowhere);
  expect_nowhere(library(), "(^|[^\\w.>])(std::|::)?(rand|srand|strtok)\\s*\\(", "hidden global state", nowhere);
}

TEST(Sources, EveryFileSaysItsLicence) {
  for (const Source& source : everything()) {
    ASSERT_FALSE(source.lines.empty()) << source.path;
    EXPECT_EQ(source.lines.front(), "// SPDX-License-Identifier: Apache-2.0") << source.path;
  }
}

TEST(Sources, HeadersGuardThemselvesAndExplainThemselves) {
  for (const Source& source : library()) {
    if (!ends_with(source.path, ".h")) continue;
    EXPECT_NE(std::find(source.lines.begin(), source.lines.end(), "#pragma once"), source.lines.end()) << source.path;
    EXPECT_EQ(source.lines.at(1).rfind("// ", 0), 0u) << source.path << ": no opening lines";
  }
}

TEST(Sources, TodosCarryAnIssueNumber) {
  const std::string word =
      "TO"
      "DO";  // apart, so that this file does not find itself
  const std::regex numbered(word + "\\(#[0-9]+\\)");
  for (const Source& source : everything()) {
    for (const std::string& line : source.lines) {
      if (line.find(word) == std::string::npos) continue;
      EXPECT_TRUE(std::regex_search(line, numbered)) << source.path << line;
    }
  }
}

TEST(Sources, AFileFitsASitting) {
  for (const Source& source : library()) {
    const bool kernels = ends_with(source.path, "_cpu.cc") || ends_with(source.path, ".cu");
    EXPECT_LE(source.lines.size(), kernels ? 600u : 400u) << source.path;
    for (const std::string& line : source.lines) EXPECT_LE(line.size(), 140u) << source.path << ": " << line;
  }
}

TEST(Sources, FilesThatShouldNotExistDoNot) {
  const std::set<std::string> stems = {
      "utils",   "util",   "common",  "helpers", "helper",          "types",    "constants",
      "graph",   "fusion", "session", "context", "graph_scheduler", "kv_cache", "recurrent_cache",
      "prefill", "decode", "logging", "backend", "last_error"};
  const std::regex aged("(_v2|_new|_old|kernel[0-9]+)$");
  for (const Source& source : library()) {
    const std::string stem = fs::path(source.path).stem().string();
    EXPECT_FALSE(stems.count(stem)) << source.path;
    EXPECT_FALSE(std::regex_search(stem, aged)) << source.path << ": name the method, not the age";
    EXPECT_NE(source.path, "carousel/ops/ops.h");
    EXPECT_NE(source.path, "carousel/blocks/blocks.h");
  }
  EXPECT_FALSE(fs::exists(fs::path(CAROUSEL_SOURCE_DIR) / "include"));
}

// core/ is `carousel` itself, and so are the contracts of ops/ that every floor above speaks (Ctx, Weight, Params).
TEST(Sources, TheNamespaceIsTheFolder) {
  const std::regex opening("^namespace carousel(::(\\w+))?");
  for (const Source& source : library()) {
    for (const std::string& line : source.code) {
      std::smatch match;
      if (!std::regex_search(line, match, opening) || !match[2].matched) continue;
      const bool kernel = match[2] == "cpu" || match[2] == "kernels";
      EXPECT_TRUE(kernel || match[2] == source.folder) << source.path << ": " << line;
    }
  }
}

// The checks themselves are checked: text and comments are not code.
TEST(Sources, CommentsAndStringsAreNotCode) {
  EXPECT_EQ(without_text("a(\"x // \\\" y\", 'b'); // exit("), "a(, ); ");
  EXPECT_EQ(without_text("n = 1'000; c = 'x';"), "n = 1'000; c = ;");
  std::string text;
  without_text("f(\"a.b\", \"c\\\"d\"); // \"e\"", &text);
  EXPECT_EQ(text, "a.b c\\d ");
}

}  // namespace
}  // namespace carousel
