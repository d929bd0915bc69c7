// SPDX-License-Identifier: Apache-2.0
// Every config, tokenizer and state of tests/fixtures/malformed gives its one message (tools/make_malformed.py).
#include <gtest/gtest.h>

#include <functional>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/config.h"
#include "carousel/model/load.h"
#include "carousel/model/saved_state.h"
#include "carousel/text/tokenizer.h"

namespace carousel::model {
namespace {

const std::string kFixtures = CAROUSEL_SOURCE_DIR "/tests/fixtures/";

// Each file of malformed/KIND, opened by `open`, must fail with the one line expected.json has for it.
void expect_messages(const std::string& kind, const std::function<void(const std::string& path)>& open) {
  const std::string folder = kFixtures + "malformed/" + kind + "/";
  const Json expected = read_json_file(folder + "expected.json");
  ASSERT_GE(expected.size(), 6u);
  for (const auto& [name, message] : expected.items()) {
    try {
      open(folder + name);
      ADD_FAILURE() << name << " was accepted, expected: " << message;
    } catch (const Error& error) {
      const std::string got = error.what();
      EXPECT_TRUE(error.kind() == ErrorKind::kInput || error.kind() == ErrorKind::kState) << name;
      EXPECT_NE(got.find(message.get<std::string>()), got.npos) << name << ": " << got << "\nexpected: " << message;
      EXPECT_EQ(got.find('\n'), got.npos) << got;
    }
  }
}

TEST(Malformed, Config) {
  expect_messages("config", [](const std::string& path) { measure(parse_config(read_json_file(path), path), path); });
}

TEST(Malformed, Tokenizer) {
  expect_messages("tokenizer", [](const std::string& path) { text::Tokenizer::from_file(path); });
}

TEST(Malformed, GgufModel) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  expect_messages("gguf_model", [&](const std::string& path) { load(path, stream); });
}

TEST(Malformed, State) {
  ThreadPool pool(1);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  const Model model = load(kFixtures + "models/xlstm-odd", stream);
  expect_messages("state", [&](const std::string& path) { load_state(path, model); });
}

}  // namespace
}  // namespace carousel::model
