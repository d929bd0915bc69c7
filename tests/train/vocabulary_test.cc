// SPDX-License-Identifier: Apache-2.0
// The vocabulary of models: what begins and ends documents, and the turns of a model's own template.
#include "carousel/train/vocabulary.h"

#include <gtest/gtest.h>

#include "carousel/core/parallel.h"
#include "tests/cli/tiny_model.h"
#include "tests/text/chat_tokenizer.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

constexpr const char* kChatMl =
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A folder with an initialised model, and the model.
struct Made {
  explicit Made(const std::string& config, const std::string& tokenizer = "") : pool(1) {
    write(scratch / "config.json", config);
    folder = scratch / "model";
    model::write_initialised(scratch / "config.json", 1, DType::kF32, folder);
    if (!tokenizer.empty()) write(folder + "/tokenizer.json", tokenizer);
    stream.pool = &pool;
  }
  const model::Model& model() {
    if (!loaded.lm) loaded = model::load(folder, stream);
    return loaded;
  }
  Vocabulary vocabulary() { return vocabulary_of(folder, model()); }

  Scratch scratch;
  std::string folder;
  ThreadPool pool;
  Stream stream;
  model::Model loaded;
};

std::string chat_config() {
  std::string config = cli::kTinyXlstm;
  return config.replace(config.find("256"), 3, std::to_string(text::kChatVocabSize));
}

TEST(Vocabulary, ModelsWithoutATokenizerTakeBytes) {
  Made made(cli::kTinyXlstm);
  const Vocabulary bytes = made.vocabulary();
  EXPECT_TRUE(bytes.bytes);
  EXPECT_EQ(bytes.size, 256);
  EXPECT_FALSE(bytes.start || bytes.end);
  std::string config = cli::kTinyXlstm;
  Made larger(config.replace(config.find("256"), 3, "300"));
  EXPECT_TRUE(larger.vocabulary().bytes);
  config = cli::kTinyXlstm;
  Made smaller(config.replace(config.find("256"), 3, "100"));
  EXPECT_FALSE(smaller.vocabulary().tokenizer);
  const std::string path = write(smaller.scratch / "a.txt", "text");
  EXPECT_NE(error_of([&] { documents_of(path, smaller.vocabulary()); }).find("holds text: "), std::string::npos);
}

TEST(Vocabulary, TheTokenizersFileDecidesTheHash) {
  const Json json = text::chat_tokenizer_json();
  Made made(chat_config(), json.dump()), same(chat_config(), json.dump()), other(chat_config(), json.dump(1));
  const Vocabulary vocabulary = made.vocabulary();
  EXPECT_EQ(vocabulary.hash, same.vocabulary().hash);
  EXPECT_NE(vocabulary.hash, other.vocabulary().hash);
  EXPECT_FALSE(vocabulary.start) << "the tokenizer begins texts itself";
  EXPECT_EQ(vocabulary.end, text::kTurnEnd) << "there is no <|endoftext|>";
  EXPECT_TRUE(vocabulary.name.starts_with("byte-level BPE of 263 ids (")) << vocabulary.name;
}

TEST(Vocabulary, MessagesTakeTheModelsTurns) {
  Made made(chat_config(), text::chat_tokenizer_json().dump());
  write(made.folder + "/chat_template.jinja", kChatMl);
  const std::string path =
      write(made.scratch / "a.jsonl",
            R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})"
            "\n"
            R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, )"
            R"({"role": "assistant", "content": "a"}]})");
  const Vocabulary vocabulary = made.vocabulary();
  const std::vector<Document> documents = documents_of(path, vocabulary);
  ASSERT_EQ(documents.size(), 2u);
  const auto ids = [&](const std::string& text) { return vocabulary.tokenizer->encode(text, false, true); };
  EXPECT_EQ(documents[0].ids, ids("<|startoftext|><|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>"));
  EXPECT_EQ(documents[1].ids, ids("<|startoftext|><|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n"
                                  "<|im_start|>assistant\na<|im_end|>"));
  write(made.folder + "/chat_template.jinja", "[INST] {{ content }} [/INST]");
  const std::string error = error_of([&] { documents_of(path, vocabulary); });
  EXPECT_TRUE(error.starts_with(path + ":1: ")) << error;
  EXPECT_NE(error.find("is not plain ChatML"), std::string::npos) << error;
  EXPECT_EQ(error.find("--plain"), std::string::npos) << "that is an option of chat";
}

}  // namespace
}  // namespace carousel::train
