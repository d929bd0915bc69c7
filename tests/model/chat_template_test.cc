// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/chat_template.h"

#include <gtest/gtest.h>

#include "carousel/core/error.h"
#include "tests/cli/run_command.h"

namespace carousel::model {
namespace {

std::string read(const std::string& config, const std::string& jinja = "") {
  const Scratch scratch;
  if (!config.empty()) cli::write_file(scratch / "tokenizer_config.json", config);
  if (!jinja.empty()) cli::write_file(scratch / "chat_template.jinja", jinja);
  return read_chat_template({scratch / "", "", ""});
}

TEST(ChatTemplate, IsReadFromWhereverItIsPublished) {
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read(R"({"bos_token": "<s>"})"), "");
  EXPECT_EQ(read(R"({"chat_template": null})"), "");
  EXPECT_EQ(read(R"({"chat_template": "a"})"), "a");
  EXPECT_EQ(read(R"({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]})"),
            "b");
  EXPECT_EQ(read(R"({"chat_template": "a"})", "c"), "c");
}

TEST(ChatTemplate, MalformedFilesAreRefused) {
  for (const char* config :
       {"{", "[]", R"({"chat_template": 3})", R"({"chat_template": [3]})",
        R"({"chat_template": [{"name": "rag", "template": "a"}]})", R"({"chat_template": [{"name": "default"}]})"}) {
    EXPECT_THROW(read(config), Error) << config;
  }
}

}  // namespace
}  // namespace carousel::model
