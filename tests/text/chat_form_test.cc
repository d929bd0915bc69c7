// SPDX-License-Identifier: Apache-2.0
// Chat templates against Jinja itself: tests/fixtures/chat/templates.json holds what jinja2 3.1.6 renders, made by
// tools/make_chat_template_fixtures.py.
#include "carousel/text/chat_form.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/jinja.h"
#include "carousel/text/jinja_render.h"

namespace carousel::text {
namespace {

const std::map<std::string, std::string> kTokens = {{"bos_token", "<|startoftext|>"}, {"eos_token", "<|im_end|>"}};

Json fixtures() { return read_json_file(CAROUSEL_SOURCE_DIR "/tests/fixtures/chat/templates.json"); }

std::string render(const std::string& source, const Json& messages) {
  JinjaValue::List list;
  for (const Json& message : messages) {
    list.push_back(JinjaValue::of(
        JinjaValue::Map{{"role", JinjaValue::of(known_text(message["role"].get<std::string>()))},
                        {"content", JinjaValue::of(known_text(message["content"].get<std::string>()))}}));
  }
  JinjaValue::Map variables{{"messages", JinjaValue::of(list)},
                            {"tools", JinjaValue::none()},
                            {"add_generation_prompt", JinjaValue::boolean(true)}};
  for (const auto& [name, text] : kTokens) variables[name] = JinjaValue::of(known_text(text));
  return spell(render_jinja(parse_jinja(source), variables).text);
}

TEST(ChatForm, IsPlainWhereJinjaWritesChatMl) {
  int plain = 0;
  for (const Json& fixture : fixtures()) {
    const auto source = fixture["template"].get<std::string>();
    const auto name = fixture["name"].get<std::string>();
    for (const bool with_system : {false, true}) {
      const ChatForm form = compare_with_chat_ml(source, kTokens, with_system);
      const bool expected = fixture["plain"][with_system ? 1 : 0].get<bool>();
      EXPECT_EQ(form.difference.empty(), expected) << name << ", system " << with_system << ": " << form.difference;
      EXPECT_EQ(form.difference.find('\n'), std::string::npos) << name << ": " << form.difference;
      if (!expected) continue;
      ++plain;
      const auto rendered = fixture["cases"][with_system ? 2 : 0]["rendered"].get<std::string>();
      EXPECT_EQ(form.start, rendered.substr(0, rendered.find("<|im_start|>"))) << name;
    }
  }
  EXPECT_GT(plain, 20);
}

TEST(JinjaRender, WritesWhatJinjaWrites) {
  int same = 0;
  for (const Json& fixture : fixtures()) {
    const auto source = fixture["template"].get<std::string>();
    for (const Json& conversation : fixture["cases"]) {
      const auto expected = conversation["rendered"].get<std::string>();
      try {
        EXPECT_EQ(render(source, conversation["messages"]), expected) << fixture["name"];
        ++same;
      } catch (const Error& error) {
        const std::string what = error.what();
        EXPECT_TRUE(expected.starts_with("refused: ") || what.find("is not known here") != std::string::npos) << what;
      }
    }
  }
  EXPECT_GT(same, 130);
}

std::string difference(const std::string& source, bool with_system = false) {
  return compare_with_chat_ml(source, kTokens, with_system).difference;
}

const std::string kTurns =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}";
const std::string kAsk = "{{ '<|im_start|>assistant\\n' }}";

TEST(ChatForm, TheDifferenceIsNamed) {
  const auto expect = [](const std::string& source, const std::string& named) {
    EXPECT_NE(difference(source).find(named), std::string::npos) << difference(source);
  };
  expect(kTurns + "<|im_start|>assistant\n<think>", "it writes \"<|im_start|>assistant\\n<think>\" where ChatML has");
  expect(kTurns, "it writes nothing where ChatML has \"<|im_start|>assistant\\n\"");
  expect("{{ messages[0].content | trim }}" + kTurns + kAsk, "{user text 1 | trim}");
  expect(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{{ '\\n' }}{% endfor %}" + kAsk,
      "\"<|im_start|>user\\n{user text 1 | trim}<|im_end|>\\n\" where ChatML has \"<|im_start|>user\\n{user text 1}");
  expect("{% if messages|length == 1 %}{{ raise_exception('too\\nshort') }}{% endif %}" + kTurns + kAsk,
         "line 1: it refuses such a conversation: \"too");
  expect("\n{{ strftime_now('%d') }}" + kTurns + kAsk, "line 2: the function \"strftime_now\" is not known here");
  expect("[INST]", "it writes \"[INST]\" where ChatML has \"<|im_start|>user\\n{user text 1}<|im_end|>\\n\"");
}

// What is not evaluated exactly is refused, not guessed at.
TEST(ChatForm, WhatIsNotKnownIsADifference) {
  for (const std::string source : {"{{ messages | tojson }}",
                                   "{% if messages|length > 9 %}x{% endif %}",
                                   "{% if messages[0].content == 'Hi' %}x{% endif %}",
                                   "{% if messages[0].content|length > 3 %}x{% endif %}",
                                   "{% if messages[0].content.strip() %}{% endif %}",
                                   "{% for a, b in messages %}{% endfor %}",
                                   "{% include 'x' %}",
                                   "{% raw %}x{% endraw %}",
                                   "{{ 1.5 }}",
                                   "{{ '\\x41' }}",
                                   "{% if true %}",
                                   "{{ 'a }}",
                                   "{# a",
                                   "{% endif %}",
                                   "{{ (1 }}",
                                   "{{ 1 < 2 < 3 }}",
                                   "{{ nothing.at }}",
                                   "{% set messages.x = 1 %}",
                                   "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
                                   "{% break %}",
                                   "{% if strftime_now is defined %}{% endif %}",
                                   "{{ ''|safe }}",
                                   "{% for m in messages %}{{ loop.depth }}{% endfor %}",
                                   "{{ messages }}"}) {
    EXPECT_NE(difference(source + kTurns + kAsk), "") << source;
    EXPECT_EQ(difference(source + kTurns + kAsk).find("where ChatML"), std::string::npos) << source;
  }
  EXPECT_EQ(difference(kTurns + kAsk), "");
  EXPECT_EQ(
      difference("{% macro f(a, b=a) %}{{ b }}{% endmacro %}{% for m in messages %}{{ f('<|im_start|>' + m.role) + "
                 "'\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" +
                 kAsk),
      "");
}

TEST(ChatForm, TextsTreatedApartAreConditions) {
  const std::string source =
      "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
      "{% set c = c.split('</think>')[-1] %}{% endif %}{% if m.role == 'user' and c.startswith('/') %}"
      "{{ raise_exception('no') }}{% endif %}{{ '<|im_start|>' + m.role + '\\n' + c + '<|im_end|>\\n' }}{% endfor %}" +
      kAsk;
  const ChatForm form = compare_with_chat_ml(source, kTokens, false);
  EXPECT_EQ(form.difference, "");
  EXPECT_EQ(form.conditions, (std::vector<ChatCondition>{{"user", "/"}, {"assistant", "</think>"}}));
}

// Nothing in a file makes the reader overflow its stack or run for long.
TEST(ChatForm, HostileTemplatesAreRefused) {
  const auto repeated = [](const std::string& text, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) out += text;
    return out;
  };
  const std::string loop = "{% for m in messages %}", end = "{% endfor %}";
  for (const std::string& source :
       {"{{ " + repeated("(", 100000), "{{ x" + repeated(".a", 100000) + " }}",
        "{{ x" + repeated("|trim", 40000) + " }}", "{{ 1" + repeated(" + 1", 40000) + " }}",
        "{{ " + repeated("not ", 50000) + "x }}", repeated("{% if x %}", 20000),
        repeated(loop, 100) + "x" + repeated(end, 100),
        "{% macro m(x) %}{{ x }}{{ x }}{{ x }}{{ x }}{% endmacro %}" + repeated("{% set y = m(y ~ 'aaaa') %}", 60),
        "{% set x = -1 %}" + repeated("{% set x = x + x %}", 63) + "{{ x % -1 }}" + kTurns + kAsk,
        "{% set s = 'aaaaaaaaaaaaaaaa' %}" + repeated("{% set s = s + s %}", 11) +
            "{% set t = s + messages[0].content %}" + repeated("{% set t = t + t %}", 11) + kTurns + kAsk,
        "{% set s = 'aaaaaaaaaaaaaaaa' %}" + repeated("{% set s = s + s %}", 10) + repeated("{% set t = s %}", 5000) +
            kTurns + kAsk,
        repeated("x", 300000)}) {
    EXPECT_NE(difference(source), "") << source.substr(0, 40);
  }
}

}  // namespace
}  // namespace carousel::text
