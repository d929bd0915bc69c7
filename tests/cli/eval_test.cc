// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

// -log softmax(logits)[target], plainly.
double nll(const std::vector<float>& logits, int32_t target) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum) - static_cast<double>(logits[static_cast<size_t>(target)]);
}

std::vector<int32_t> bytes_of(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string some_text(size_t length) {
  std::string text;
  for (size_t i = 0; text.size() < length; ++i) text += "word" + std::to_string(i * i % 89) + " ";
  return text.substr(0, length);
}

Json eval(const std::string& arguments) {
  const Ran ran = run_carousel("eval --json " + arguments);
  EXPECT_EQ(ran.status, 0) << ran.err;
  return ran.status == 0 ? parse_json(ran.out, "eval") : Json::object();
}

TEST(Eval, WindowsStartFromZeroAndShareTheirBorder) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed);
  const std::string text = some_text(101);
  write_file(scratch / "text", text);
  const std::vector<int32_t> ids = bytes_of(text);
  Library library(folder);
  for (const size_t window : {size_t{1}, size_t{7}, size_t{25}, size_t{100}, size_t{4000}}) {
    double sum = 0;
    for (size_t begin = 0; begin + 1 < ids.size(); begin += window) {
      const size_t end = std::min(begin + window, ids.size() - 1);
      const auto logits =
          library.step({ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end)});
      for (size_t t = begin; t < end; ++t) sum += nll(logits[t - begin], ids[t + 1]);
    }
    const Json result = eval(folder + " --text " + (scratch / "text") + " --window " + std::to_string(window));
    EXPECT_EQ(result.at("text").at("tokens"), 100);
    // f32 logits of another summation order within 2e-5; the mean of 100 is far closer.
    EXPECT_NEAR(result.at("text").at("nats_per_token").get<double>(), sum / 100, 1e-5) << "window " << window;
    EXPECT_NEAR(result.at("text").at("bits_per_byte").get<double>(), sum / 101 / std::log(2.0), 2e-5);
    EXPECT_NEAR(result.at("text").at("perplexity").get<double>(), std::exp(sum / 100), 1e-2);
  }
}

TEST(Eval, LongWindowsRunInSlabsOfOneState) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const std::string text = some_text(5001);
  write_file(scratch / "text", text);
  Library library(folder);
  const std::vector<int32_t> ids = bytes_of(text);
  const auto logits = library.step(ids);
  double sum = 0;
  for (size_t t = 0; t + 1 < ids.size(); ++t) sum += nll(logits[t], ids[t + 1]);
  const Json result = eval(folder + " --text " + (scratch / "text") + " --window 100000");
  EXPECT_NEAR(result.at("text").at("nats_per_token").get<double>(), sum / 5000, 1e-5);
}

TEST(Eval, LambadaAsksForTheLastWord) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  Library library(folder);
  // One passage whose last "word" is what the model would say, if that is no space; others are almost surely wrong.
  std::string lines;
  int64_t correct = 0, passages = 0;
  double sum = 0;
  for (const char* text : {"the cat sat on a", "one two three", "a bee", "how now brown cow x"}) {
    const std::string passage = text;
    lines += Json{{"text", passage}}.dump() + "\n";
    const std::vector<int32_t> ids = bytes_of(passage);
    const auto logits = library.step(ids);
    bool all = true;
    for (size_t t = passage.rfind(' '); t < ids.size(); ++t) {
      const std::vector<float>& row = logits[t - 1];
      sum += nll(row, ids[t]);
      all = all && std::max_element(row.begin(), row.end()) - row.begin() == ids[t];
    }
    correct += all ? 1 : 0;
    ++passages;
  }
  write_file(scratch / "lambada.jsonl", lines + "\n");
  const Json result = eval(folder + " --lambada " + (scratch / "lambada.jsonl")).at("lambada");
  EXPECT_EQ(result.at("passages"), passages);
  EXPECT_EQ(result.at("correct"), correct);
  std::string crlf = "\xEF\xBB\xBF";
  for (const char c : lines.substr(0, lines.size() - 1)) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  write_file(scratch / "lambada.jsonl", crlf);
  EXPECT_EQ(eval(folder + " --lambada " + (scratch / "lambada.jsonl")).at("lambada"), result)
      << "as other systems write lines";
  EXPECT_NEAR(result.at("nats_per_target").get<double>(), sum / static_cast<double>(passages), 1e-4);
}

TEST(Eval, LambadaCountsWhatTheModelWouldSay) {
  const std::string folder = shared("models/stories-xlstm");
  if (is_absent(folder)) GTEST_SKIP() << folder << " is absent";
  const Scratch scratch;
  // A children's story model knows how stories begin, and nothing of the second.
  write_file(scratch / "lambada.jsonl",
             "{\"text\": \"Once upon a time, there was a little girl named Lily. She loved to play with her toys. One "
             "day\"}\n{\"text\": \"Once upon a zygomorphic\"}\n");
  const Json result = eval(folder + " --lambada " + (scratch / "lambada.jsonl")).at("lambada");
  EXPECT_EQ(result.at("passages"), 2);
  EXPECT_EQ(result.at("correct"), 1) << result;
  EXPECT_EQ(result.at("accuracy"), 0.5);
}

TEST(Eval, BadInputIsNamed) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_file(scratch / "text", "x");
  const Ran window = run_carousel("eval " + folder + " --text x --window hot");
  EXPECT_EQ(window.status, 2);
  EXPECT_NE(window.err.find("--window: got \"hot\", expected an integer from 1 to"), std::string::npos) << window.err;
  EXPECT_EQ(run_carousel("eval " + folder + " --text x --window 0").status, 2);
  EXPECT_EQ(run_carousel("eval " + folder).status, 2) << "nothing to evaluate";
  const Ran brief_text = run_carousel("eval " + folder + " --text " + (scratch / "text"));
  EXPECT_EQ(brief_text.status, 1);
  EXPECT_NE(brief_text.err.find("the text is 1 tokens, expected at least 2"), std::string::npos) << brief_text.err;
  EXPECT_EQ(run_carousel("eval " + folder + " --text " + (scratch / "nowhere")).status, 1);
  write_file(scratch / "lambada.jsonl", "{\"text\": \"fine words\"}\n{\"text\": \"word\"}\n");
  const Ran passage = run_carousel("eval " + folder + " --lambada " + (scratch / "lambada.jsonl"));
  EXPECT_EQ(passage.status, 1);
  EXPECT_NE(passage.err.find("lambada.jsonl:2: \"text\" is"), std::string::npos) << passage.err;
}

// Weights may be finite and what they compute not: NaN is no likelihood.
TEST(Eval, LogitsThatOverflowAreRefused) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const std::string weights = folder + "/model.safetensors";
  NamedTensors tensors = formats::SafetensorsFile::open(weights).load_all();
  for (NamedTensor& named : tensors) {
    if (named.name.find("ffn.proj_") == std::string::npos) continue;
    for (int64_t i = 0; i < named.tensor.count(); ++i) named.tensor.f32()[i] = i % 3 == 0 ? -1e38f : 1e38f;
  }
  formats::write_safetensors(weights, tensors);
  write_file(scratch / "text", some_text(100));
  write_file(scratch / "lambada.jsonl", "{\"text\": \"fine words\"}\n");
  for (const std::string& what : {"--text " + (scratch / "text"), "--lambada " + (scratch / "lambada.jsonl")}) {
    const Ran ran = run_carousel("eval " + folder + " " + what);
    EXPECT_EQ(ran.status, 1) << ran.out;
    EXPECT_EQ(ran.out, "");
    EXPECT_NE(ran.err.find("expected a finite number"), std::string::npos) << ran.err;
  }
  const Ran quantized =
      run_carousel("quantize " + folder + " --type bf16 --out " + (scratch / "q") + " --eval " + (scratch / "text"));
  EXPECT_EQ(quantized.status, 1) << quantized.out;
  EXPECT_NE(quantized.err.find("expected a finite number"), std::string::npos) << quantized.err;
  const Ran compared = run_carousel("compare " + folder + " --b torch-f32 --ids 1,2,3 -n 0");
  EXPECT_EQ(compared.status, 1) << compared.out;
  EXPECT_NE(compared.out.find("embeddings"), std::string::npos) << "the table shows where it begins";
  EXPECT_NE(compared.err.find("compare: the output of layers.0.ffn holds numbers that are not finite"),
            std::string::npos)
      << compared.err;
}

TEST(Eval, HelpShowsEveryDefault) {
  const Ran ran = run_carousel("eval --help");
  EXPECT_EQ(ran.status, 0);
  for (const char* text : {"--text", "--lambada", "--window", "512", "--json", "--threads"})
    EXPECT_NE(ran.out.find(text), std::string::npos) << text;
}

// What transformers computes for this model and text, in float32.
TEST(Eval, StoriesModelOnItsValidationText) {
  const std::string folder = shared("models/stories-xlstm");
  const std::string text = shared("data/stories_valid.txt");
  if (is_absent(folder) || is_absent(text)) GTEST_SKIP() << folder << " or " << text << " is absent";
  if (kSanitized || kEmulated) GTEST_SKIP() << "minutes of arithmetic that other tests have run";
  const Json result = eval(folder + " --text " + text + " --window 512");
  EXPECT_NEAR(result.at("text").at("nats_per_token").get<double>(), 1.2502, 0.0005);
  EXPECT_EQ(result.at("text").at("bytes"), 1492576);
}

}  // namespace
}  // namespace carousel::cli
