// SPDX-License-Identifier: Apache-2.0
// Files become documents: where they begin and end, what the loss counts, and errors in one line.
#include "carousel/train/documents.h"

#include <gtest/gtest.h>

#include "tests/text/chat_tokenizer.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

using Ids = std::vector<int32_t>;

std::vector<std::string> texts(const std::vector<Document>& documents, const Vocabulary& vocabulary) {
  std::vector<std::string> out;
  for (const Document& document : documents) out.push_back(vocabulary.tokenizer->decode_bytes(document.ids));
  return out;
}

/// A chat model: <|startoftext|> begins texts, <|im_end|> ends them.
Vocabulary chat_vocabulary() {
  Vocabulary out;
  out.size = text::kChatVocabSize;
  out.tokenizer = text::Tokenizer::from_json(text::chat_tokenizer_json().dump(), "chat");
  out.end = text::kTurnEnd;
  out.name = "chat";
  out.turns = [tokenizer = *out.tokenizer](bool) {
    model::ChatTurns turns;
    turns.turns = text::ChatMl::find(tokenizer);
    turns.start = {text::kStart};
    return turns;
  };
  return out;
}

/// What a document says; what the loss counts is in brackets.
std::string marked(const Document& document, const Vocabulary& vocabulary) {
  std::string out;
  bool inside = false;
  for (size_t i = 0; i < document.ids.size(); ++i) {
    const bool scored = document.scored.empty() || document.scored[i] != 0;
    if (scored != inside) out += scored ? "[" : "]";
    inside = scored;
    out += vocabulary.tokenizer->decode_bytes({{document.ids[i]}});
  }
  return out + (inside ? "]" : "");
}

TEST(Documents, TextEndsAtTheSeparator) {
  const Scratch scratch;
  const Vocabulary bytes = byte_vocabulary();
  const std::string path =
      write(scratch / "a.txt", "\xEF\xBB\xBFone\n<|endoftext|>\ntwo<|endoftext|>\n<|endoftext|>three\n");
  using Texts = std::vector<std::string>;
  EXPECT_EQ(texts(documents_of(path, bytes), bytes), (Texts{"one\n", "\ntwo", "three\n"}));
  ReadOptions options;
  options.separator = "\n";
  EXPECT_EQ(texts(documents_of(path, bytes, options), bytes),
            (Texts{"one", "<|endoftext|>", "two<|endoftext|>", "<|endoftext|>three"}));
  EXPECT_TRUE(documents_of(write(scratch / "empty.txt", ""), bytes).empty());
  options.separator = "";
  EXPECT_NE(error_of([&] { documents_of(path, bytes, options); }).find("--separator"), std::string::npos);
}

TEST(Documents, TextHasTheTokensAroundIt) {
  const Scratch scratch;
  Vocabulary chat = chat_vocabulary();
  const std::string path = write(scratch / "a.txt", "ab<|endoftext|>user");
  const std::vector<Document> documents = documents_of(path, chat);
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(documents[0].ids, (Ids{text::kStart, 'a', 'b', text::kTurnEnd})) << "the tokenizer begins texts itself";
  EXPECT_EQ(documents[1].ids, (Ids{text::kStart, 262, text::kTurnEnd}));
  chat.start = 5;
  chat.end.reset();
  EXPECT_EQ(documents_of(path, chat)[0].ids, (Ids{5, text::kStart, 'a', 'b'}));
}

TEST(Documents, LongTextComesInParts) {
  const Scratch scratch;
  std::string line = "a line of a long document\n", text;
  while (text.size() < (size_t{40} << 20)) text += line;
  const std::string path = write(scratch / "a.txt", text);
  const Vocabulary bytes = byte_vocabulary();
  int parts = 0;
  size_t count = 0;
  read_text(*formats::MappedFile::open(path), {}, bytes, [&](const Document& part) {
    ++parts;
    count += part.ids.size();
    EXPECT_EQ(part.goes_on, count < text.size());
  });
  EXPECT_EQ(parts, 3);
  EXPECT_EQ(count, text.size());
}

TEST(Documents, TextMustBeUtf8UnlessTheModelTakesBytes) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.txt", "ab<|endoftext|>c\xFF");
  EXPECT_EQ(documents_of(path, byte_vocabulary()).size(), 2u);
  EXPECT_EQ(error_of([&] { documents_of(path, chat_vocabulary()); }), path + ": byte 16 is no UTF-8, expected text");
  EXPECT_NE(error_of([&] { documents_of(path, id_vocabulary(10)); }).find("no tokenizer"), std::string::npos);
}

TEST(Documents, JsonlHoldsTextsPairsAndConversations) {
  const Scratch scratch;
  const Vocabulary chat = chat_vocabulary();
  const std::string path =
      write(scratch / "a.jsonl", R"({"text": "ab", "n": 1})"
                                 "\r\n\n"
                                 R"({"prompt": "say ", "completion": "user<|im_end|>"})"
                                 "\n"
                                 R"({"messages": [{"role": "system", "content": "s"}, )"
                                 R"({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, )"
                                 R"({"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]})");
  const std::vector<Document> documents = documents_of(path, chat);
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(marked(documents[0], chat), "[<|startoftext|>ab<|im_end|>]");
  EXPECT_EQ(marked(documents[1], chat), "<|startoftext|>say [user<|im_end|><|im_end|>]");
  EXPECT_EQ(documents[1].ids.back(), text::kTurnEnd);
  EXPECT_NE(documents[1].ids[documents[1].ids.size() - 2], text::kTurnEnd) << "typed control tokens stay text";
  EXPECT_EQ(marked(documents[2], chat),
            "<|startoftext|><|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
            "[a<|im_end|>]\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]");
  ReadOptions all;
  all.loss_on = LossOn::kAll;
  for (const Document& document : documents_of(path, chat, all)) EXPECT_TRUE(document.scored.empty());
}

TEST(Documents, JsonlKeyIsNamed) {
  const Scratch scratch;
  const Vocabulary chat = chat_vocabulary();
  const std::string path = write(
      scratch / "a.jsonl", R"({"text": "no", "story": "ab"})"
                           "\n"
                           R"({"story": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})");
  ReadOptions options;
  options.key = "story";
  const std::vector<Document> documents = documents_of(path, chat, options);
  ASSERT_EQ(documents.size(), 2u);
  EXPECT_EQ(marked(documents[0], chat), "[<|startoftext|>ab<|im_end|>]");
  EXPECT_NE(marked(documents[1], chat).find("[a<|im_end|>]"), std::string::npos);
}

TEST(Documents, JsonlErrorsNameTheLine) {
  const Scratch scratch;
  const Vocabulary chat = chat_vocabulary();
  const std::string path = scratch / "a.jsonl";
  const auto refusal = [&](const std::string& line, const std::string& key = "") {
    write(path, "{\"text\": \"a\", \"k\": \"a\"}\n" + line + "\n");
    ReadOptions options;
    options.key = key;
    const std::string error = error_of([&] { documents_of(path, chat, options); });
    EXPECT_TRUE(error.starts_with(path + ":2: ")) << error;
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    return error;
  };
  const auto says = [&](const std::string& line, const std::string& what) {
    EXPECT_NE(refusal(line).find(what), std::string::npos) << refusal(line);
  };
  says("{\"text\": ", "not valid JSON");
  says("[1]", "expected an object");
  says("{\"a\": 1, \"b\": 2}", "keys: got \"a\", \"b\", expected \"text\"");
  says("{}", "got none");
  says("{\"prompt\": \"a\"}", "\"prompt\" and \"completion\"");
  says("{\"text\": 3}", "\"text\": got 3, expected a string");
  says("{\"messages\": []}", "expected a list of messages");
  says(R"({"messages": [{"role": "user", "content": "a"}]})", "expected an answer");
  says(R"({"messages": [{"role": "assistant", "content": "a"}]})", "got the role \"assistant\", expected \"user\"");
  says(R"({"messages": [{"role": "user"}]})", "expected \"content\"");
  says(R"({"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "q"}, )"
       R"({"role": "assistant", "content": "a"}]})",
       "message 1: got an empty system text, expected text, or no such message");
  says(R"({"messages": ["a"]})", "message 1: got \"a\"");
  EXPECT_NE(refusal("{\"text\": \"a\"}", "k").find("expected \"k\" (--key)"), std::string::npos);
  Vocabulary bytes = byte_vocabulary();
  bytes.turns = [](bool) { return model::ChatTurns(); };
  write(path, R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})");
  EXPECT_NE(error_of([&] { documents_of(path, bytes); }).find("a.jsonl:1: the tokenizer lacks"), std::string::npos);
}

TEST(Documents, ShardsEndAtTheirDivider) {
  const Scratch scratch;
  Vocabulary chat = chat_vocabulary();
  std::vector<int32_t> header(256, 0);
  header[0] = 20240520, header[1] = 1, header[2] = 8;
  const std::vector<uint16_t> ids{256, 1, 2, 256, 3, 4, 256, 5};
  ReadOptions options;
  options.separator = "<|startoftext|>";
  const std::string path = write(scratch / "a.bin", raw(header) + raw(ids));
  std::vector<Document> documents = documents_of(path, chat, options);
  ASSERT_EQ(documents.size(), 3u);
  EXPECT_EQ(documents[0].ids, (Ids{256, 1, 2, 256}));
  EXPECT_EQ(documents[1].ids, (Ids{256, 3, 4, 256}));
  EXPECT_EQ(documents[2].ids, (Ids{256, 5}));
  EXPECT_EQ(documents_of(path, chat).size(), 1u) << "the tokenizer has no <|endoftext|>";
  header[0] = 20240801;
  const std::vector<uint32_t> wide(ids.begin(), ids.end());
  for (const int32_t version : {1, 7}) {
    header[1] = version;
    write(path, raw(header) + raw(wide));
    EXPECT_EQ(documents_of(path, chat, options)[0].ids, documents[0].ids) << version;
  }
  header[2] = 9;
  write(path, raw(header) + raw(wide));
  EXPECT_NE(error_of([&] { documents_of(path, chat); }).find("expected 9 ids of 4 bytes"), std::string::npos);
  header[1] = 2;
  write(path, raw(header));
  EXPECT_NE(error_of([&] { documents_of(path, chat); }).find("version 2, expected"), std::string::npos);
  header[0] = 20240520, header[1] = 7;
  write(path, raw(header));
  EXPECT_NE(error_of([&] { documents_of(path, chat); }).find("and version 1"), std::string::npos);
}

TEST(Documents, BareIdsAreOneDocument) {
  const Scratch scratch;
  const Vocabulary ids = id_vocabulary(100000);
  const std::string path = write(scratch / "a.bin", raw(std::vector<uint16_t>{0, 7, 0, 65535}));
  ReadOptions options;
  options.id_bytes = 2;
  ASSERT_EQ(documents_of(path, ids, options).size(), 1u);
  EXPECT_EQ(documents_of(path, ids, options)[0].ids, (Ids{0, 7, 0, 65535}));
  EXPECT_NE(error_of([&] { documents_of(path, ids); }).find("--ids u16 or u32"), std::string::npos);
  options.id_bytes = 4;
  EXPECT_EQ(error_of([&] { documents_of(path, ids, options); }),
            path + ": id 458752 at offset 0, expected ids from 0 to 99999");
  write(path, "odd");
  EXPECT_NE(error_of([&] { documents_of(path, ids, options); }).find("multiple of 4"), std::string::npos);
}

TEST(Documents, ArraysOfEveryIntegerType) {
  const Scratch scratch;
  const Vocabulary ids = id_vocabulary(300);
  const std::string path = scratch / "a.npy";
  const auto read = [&](const std::string& text) { return documents_of(write(path, text), ids).at(0).ids; };
  EXPECT_EQ(read(npy<uint8_t>("|u1", "3,", {1, 2, 255})), (Ids{1, 2, 255}));
  EXPECT_EQ(read(npy<uint16_t>("<u2", "2,", {1, 299})), (Ids{1, 299}));
  EXPECT_EQ(read(npy<int32_t>("<i4", "2,", {1, 299})), (Ids{1, 299}));
  EXPECT_EQ(read(npy<int64_t>("<i8", "2,", {1, 299})), (Ids{1, 299}));
  EXPECT_EQ(error_of([&] {
              read(npy<int64_t>("<i8", "3,", {1, 2, -7}));
            }),
            path + ": id -7 at offset 2, expected ids from 0 to 299");
  EXPECT_NE(error_of([&] { read(npy<int16_t>("<i2", "1,", {300})); }).find("id 300 at offset 0"), std::string::npos);
  EXPECT_NE(error_of([&] { read(npy<float>("<f4", "1,", {1})); }).find("one dimension of integers"), std::string::npos);
  EXPECT_NE(error_of([&] { read(npy<int32_t>("<i4", "1, 2", {1, 2})); }).find("2 dimensions"), std::string::npos);
}

TEST(Documents, TablesAreRefusedForLanguageModels) {
  const Scratch scratch;
  const std::string path = write(scratch / "a.csv", "1,2\n");
  EXPECT_NE(error_of([&] { documents_of(path, byte_vocabulary()); }).find("a table of features"), std::string::npos);
}

}  // namespace
}  // namespace carousel::train
