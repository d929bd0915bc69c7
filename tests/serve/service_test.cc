// SPDX-License-Identifier: Apache-2.0
// The endpoints over loopback: OpenAI's answers, states as values, and errors that say what was got and expected.
#include "carousel/serve/service.h"
#include "tests/comes_true.h"

#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

TEST_F(ServiceTest, ACompletionIsWhatTheModelSaysAlone) {
  start();
  const Json body = {{"model", "small"}, {"prompt", "It was"}, {"max_tokens", 9}, {"seed", 5}};
  const Json whole = post("/v1/completions", body);
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["choices"][0]["text"], in_json(alone("It was", 9, 5)));
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["prompt_tokens"], 6);
  EXPECT_EQ(whole["usage"]["completion_tokens"], 9);

  Json streamed = body;
  streamed["stream"] = true;
  streamed["stream_options"] = {{"include_usage", true}};
  const Answer answer = ask("POST", "/v1/completions", streamed.dump());
  const std::vector<Json> chunks = events(answer);
  std::string text;
  for (const Json& chunk : chunks) {
    for (const Json& choice : chunk["choices"]) text += choice["text"];
  }
  EXPECT_EQ(text, whole["choices"][0]["text"]);
  EXPECT_EQ(chunks.back()["usage"]["completion_tokens"], 9);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServiceTest, ListsOfPromptsAndChoicesKeepTheirOrder) {
  start();
  const Json answer =
      post("/v1/completions",
           {{"prompt", {"one", "two", "three"}}, {"n", 2}, {"max_tokens", 4}, {"seed", 3}, {"logprobs", 1}});
  ASSERT_EQ(answer["choices"].size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_EQ(answer["choices"][i]["logprobs"]["tokens"].size(), 4u);
  }
  EXPECT_EQ(answer["choices"][2]["text"], in_json(alone("two", 4, 3)));
  const Json ids = post("/v1/completions", {{"prompt", {116, 119, 111}}, {"max_tokens", 4}, {"seed", 3}});
  EXPECT_EQ(ids["choices"][0]["text"], answer["choices"][2]["text"]);
}

TEST_F(ServiceTest, ChatsAreAnsweredInMessages) {
  start();
  const Json body = {{"messages", {{{"role", "user"}, {"content", "hello"}}}}, {"max_tokens", 5}, {"seed", 1}};
  const Json whole = post("/v1/chat/completions", body);
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(whole["choices"][0]["message"]["content"],
            in_json(alone("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", 5, 1)));
  Json streamed = body;
  streamed["stream"] = true;
  const std::vector<Json> chunks = events(ask("POST", "/v1/chat/completions", streamed.dump()));
  EXPECT_EQ(chunks.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(chunks.back()["choices"][0]["finish_reason"], "length");
}

TEST_F(ServiceTest, AStateIsAValue) {
  start();
  const Json first = post("/v1/completions",
                          {{"prompt", std::string(150, 'a')}, {"max_tokens", 20}, {"seed", 2}, {"keep_state", true}});
  const std::string id = first["choices"][0]["state"];
  const Json more = {{"state", id}, {"prompt", "b"}, {"max_tokens", 8}, {"seed", 4}};
  const Json fork = post("/v1/completions", more);
  EXPECT_EQ(post("/v1/completions", more)["choices"], fork["choices"]);  // used twice
  EXPECT_EQ(fork["usage"]["prompt_tokens_details"]["cached_tokens"], 170);

  // Away, and back under another id.
  const Answer file = ask("GET", "/v1/states/" + id + "/file");
  ASSERT_EQ(file.status, 200);
  const Answer back = ask("PUT", "/v1/states", file.body);
  ASSERT_EQ(back.status, 200) << back.body;
  Json elsewhere = more;
  elsewhere["state"] = Json::parse(back.body)["id"];
  EXPECT_EQ(post("/v1/completions", elsewhere)["choices"][0]["text"], fork["choices"][0]["text"]);
  EXPECT_EQ(ask("PUT", "/v1/states", file.body.substr(0, file.body.size() / 2)).status, 422);
  std::string altered = file.body;
  altered[altered.size() - 5] ^= 1;
  EXPECT_EQ(ask("PUT", "/v1/states", altered).status, 422);

  // Rewound to 100 tokens it is what reading 100 tokens gives.
  const Json rewound = post("/v1/states", {{"state", id}, {"to", 100}});
  const Json read = post("/v1/states", {{"prompt", std::string(100, 'a')}});
  EXPECT_EQ(rewound["tokens"], 100);
  Json one = more, other = more;
  one["state"] = rewound["id"];
  other["state"] = read["id"];
  EXPECT_EQ(post("/v1/completions", one)["choices"], post("/v1/completions", other)["choices"]);

  EXPECT_EQ(Json::parse(ask("GET", "/v1/states").body)["data"].size(), 4u);
  EXPECT_EQ(ask("DELETE", "/v1/states/" + id).status, 200);
  EXPECT_EQ(ask("GET", "/v1/states/" + id).status, 404);
  post("/v1/completions", more, 404);
}

TEST_F(ServiceTest, AResponseGoesOnFromTheOneBefore) {
  start();
  const Json first = post("/v1/responses", {{"input", "hello"}, {"max_output_tokens", 6}, {"seed", 3}});
  EXPECT_EQ(first["object"], "response");
  EXPECT_EQ(first["status"], "incomplete");
  const std::string text = first["output"][0]["content"][0]["text"], id = first["id"];
  EXPECT_EQ(text, in_json(alone("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", 6, 3)));
  EXPECT_EQ(Json::parse(ask("GET", "/v1/responses/" + id).body), first);

  const Json next = {{"previous_response_id", id}, {"input", "more"}, {"max_output_tokens", 4}, {"seed", 3}};
  const Json second = post("/v1/responses", next);
  EXPECT_EQ(second["previous_response_id"], id);
  EXPECT_GT(second["usage"]["input_tokens_details"]["cached_tokens"], 6);
  Json streamed = next;
  streamed["stream"] = true;
  std::string heard;
  const std::vector<Json> told = events(ask("POST", "/v1/responses", streamed.dump()));
  for (const Json& event : told) {
    if (event["type"] == "response.output_text.delta") heard += event["delta"];
  }
  EXPECT_EQ(heard, second["output"][0]["content"][0]["text"]);
  EXPECT_EQ(told.front()["type"], "response.created");
  EXPECT_EQ(told.back()["type"], "response.incomplete");

  EXPECT_EQ(ask("DELETE", "/v1/responses/" + id).status, 200);
  EXPECT_EQ(ask("GET", "/v1/responses/" + id).status, 404);
  post("/v1/responses", {{"input", 5}}, 400);
  post("/v1/responses", {{"input", "x"}, {"max_output_tokens", 1}, {"store", nullptr}});
  const auto of_part = [](const Json& part) {
    return Json{{"input", {{{"role", "user"}, {"content", Json::array({part})}}}}, {"max_output_tokens", 1}};
  };
  post("/v1/responses", of_part({{"type", "input_text"}, {"text", "x"}}));
  post("/v1/responses", of_part({{"type", "input_text"}, {"text", 5}}), 400);
  post("/v1/responses", of_part({{"type", nullptr}}), 400);
  const Json once = post("/v1/responses", {{"input", "x"}, {"max_output_tokens", 1}, {"store", false}});
  EXPECT_EQ(ask("GET", "/v1/responses/" + once["id"].get<std::string>()).status, 404);
}

TEST_F(ServiceTest, KeysKeepStatesApart) {
  start([](ServiceOptions& options) { options.keys = {"one", "two"}; });
  const std::string one = "Authorization: Bearer one\r\n", two = "x-api-key: two\r\n";
  EXPECT_EQ(ask("GET", "/v1/models").status, 401);
  EXPECT_EQ(ask("GET", "/v1/models", "", "Authorization: Bearer onetwo\r\n").status, 401);
  EXPECT_EQ(ask("GET", "/health").status, 200);
  const Answer kept = ask("POST", "/v1/states", R"({"prompt": "abc"})", one);
  ASSERT_EQ(kept.status, 200) << kept.body;
  const std::string id = Json::parse(kept.body)["id"];
  EXPECT_EQ(ask("GET", "/v1/states/" + id, "", one).status, 200);
  EXPECT_EQ(ask("GET", "/v1/states/" + id, "", two).status, 404);
}

// Who has no key cannot make the server hold what he sends.
TEST_F(ServiceTest, ABodyWithoutAKeyIsNotRead) {
  start([](ServiceOptions& options) {
    options.keys = {"one"};
    options.hosts = {"localhost"};
  });
  const auto status = [&](const std::string& line, const std::string& headers) {
    Client client(server_->port());
    client.send(line + " HTTP/1.1\r\nContent-Length: 1000000\r\n" + headers + "\r\nthe beginning");
    return client.answer().status;
  };
  const std::string host = "Host: localhost\r\n", key = "x-api-key: one\r\n";
  EXPECT_EQ(status("PUT /v1/states", host), 401);
  EXPECT_EQ(status("PUT /v1/states", host + "x-api-key: on\r\n"), 401);
  EXPECT_EQ(status("POST /v1/completions", host), 401);
  EXPECT_EQ(status("POST /v1/completion", host + key), 404);
  EXPECT_EQ(status("PUT /v1/completions", host + key), 405);
  EXPECT_EQ(status("PUT /v1/states", "Host: elsewhere\r\n" + key), 403);
  EXPECT_EQ(ask("POST", "/v1/states", R"({"prompt": "abc"})", key).status, 200);
}

TEST_F(ServiceTest, KeysAndSaltsKeepBeginningsApart) {
  start([](ServiceOptions& options) { options.keys = {"one", "two"}; });
  const auto cached = [&](const std::string& key, const std::string& salt) {
    const Json body = {{"prompt", std::string(200, 'a')}, {"max_tokens", 1}, {"cache_salt", salt}};
    const Answer answer = ask("POST", "/v1/completions", body.dump(), "x-api-key: " + key + "\r\n");
    return Json::parse(answer.body)["usage"]["prompt_tokens_details"]["cached_tokens"].get<int>();
  };
  EXPECT_EQ(cached("one", ""), 0);
  EXPECT_EQ(cached("one", ""), 192);
  EXPECT_EQ(cached("two", ""), 0);
  EXPECT_EQ(cached("one", "x"), 0);
  EXPECT_EQ(cached("one", "x"), 192);
}

TEST_F(ServiceTest, BadRequestsSayWhatIsWrong) {
  start([](ServiceOptions& options) { options.state_bytes = 10; });
  struct Case {
    const char *path, *body;
    int status;
    const char *param, *message;
  };
  const Case cases[] = {
      {"/v1/completions", "{", 400, "", "not valid JSON"},
      {"/v1/completions", "[1]", 400, "", "expected an object"},
      {"/v1/completions", "{\"prompt\": \"\xff\"}", 400, "", "UTF-8"},
      {"/v1/completions", R"({"prompt": "a", "prompt": "b"})", 400, "", "twice"},
      {"/v1/completions", R"({"prompt": 5})", 400, "prompt", "expected text"},
      {"/v1/completions", R"({"prompt": [1, 256]})", 400, "prompt", "from 0 to 255"},
      {"/v1/completions", R"({"prompt": "a", "max_tokens": 5000})", 400, "max_tokens", "4096"},
      {"/v1/completions", R"({"prompt": "a", "n": 129})", 400, "n", "128"},
      {"/v1/completions", R"({"prompt": "a", "temperature": "hot"})", 400, "temperature", "hot"},
      {"/v1/completions", R"({"prompt": "a", "suffix": "b"})", 400, "suffix", "cannot"},
      {"/v1/completions", R"({"prompt": "a", "stop": [""]})", 400, "stop", "some text"},
      {"/v1/completions", R"({"prompt": "a", "logit_bias": {"x": 1}})", 400, "logit_bias", "token id"},
      {"/v1/completions", R"({"prompt": "a", "logit_bias": {"999": 1}})", 400, "", "999"},
      {"/v1/completions", R"({"prompt": "a", "model": "large"})", 404, "model", "expected \"small\""},
      {"/v1/completions", R"({"prompt": "a", "state": "state-0"})", 404, "state", "not kept"},
      {"/v1/completions", R"({"prompt": "a", "max_tokens": 1, "keep_state": true})", 507, "keep_state", "bytes"},
      {"/v1/chat/completions", R"({"prompt": "a"})", 400, "messages", "missing"},
      {"/v1/chat/completions", R"({"messages": []})", 400, "messages", "expected a list"},
      {"/v1/chat/completions", R"({"messages": [{"role": "cook", "content": "a"}]})", 400, "messages", "cook"},
      {"/v1/chat/completions", R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", 400,
       "messages", "image_url"},
      {"/v1/chat/completions", R"({"messages": [{"role": "user", "content": "a"}], "tools": [{}]})", 400, "tools",
       "cannot"},
      {"/v1/nothing", "{}", 404, "", "no such path"},
      {"/v1/models", "{}", 405, "", "expected GET"},
  };
  for (const Case& one : cases) {
    const Answer answer = ask("POST", one.path, one.body);
    EXPECT_EQ(answer.status, one.status) << one.body;
    const Json error = Json::parse(answer.body, nullptr, false);
    ASSERT_TRUE(error.is_object() && error.contains("error")) << answer.body;
    EXPECT_EQ(error["error"]["param"], *one.param == '\0' ? Json() : Json(one.param)) << one.body;
    EXPECT_NE(error["error"]["message"].get<std::string>().find(one.message), std::string::npos) << answer.body;
  }
  const Answer ignored = ask("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 1, "frobnicate": 2})");
  EXPECT_NE(ignored.head.find("x-carousel-ignored: frobnicate"), std::string::npos);
}

TEST_F(ServiceTest, MorePromptsThanTheQueueHoldsAreAnswered) {
  start();  // a queue of 256
  Json prompts = Json::array();
  for (int i = 0; i < 300; ++i) prompts.push_back(std::to_string(i));
  const Json answer = post("/v1/completions", {{"prompt", prompts}, {"max_tokens", 2}, {"n", 2}, {"seed", 3}});
  ASSERT_EQ(answer["choices"].size(), 600u);
  for (const int i : {0, 255, 299}) {
    const Json alone = post("/v1/completions", {{"prompt", prompts[i]}, {"max_tokens", 2}, {"n", 2}, {"seed", 3}});
    for (int k = 0; k < 2; ++k) EXPECT_EQ(answer["choices"][2 * i + k]["text"], alone["choices"][k]["text"]);
  }
}

TEST_F(ServiceTest, EveryCallIsCountedOnce) {
  start();
  post("/v1/completions", {{"prompt", "a"}, {"max_tokens", 1}});
  EXPECT_EQ(ask("PUT", "/v1/states", "no state").status, 422);
  post("/v1/completions", {{"prompt", 5}}, 400);
  const std::string figures = ask("GET", "/metrics").body;
  EXPECT_NE(figures.find("calls_answered_total{model_name=\"small\"} 1\n"), figures.npos) << figures;
  EXPECT_NE(figures.find("calls_refused_total{model_name=\"small\"} 2\n"), figures.npos) << figures;
}

TEST_F(ServiceTest, APageOfAnotherSiteIsNotAnswered) {
  start([](ServiceOptions& options) { options.hosts = {"localhost", "127.0.0.1"}; });
  EXPECT_EQ(ask("GET", "/health").status, 200);
  Client client(server_->port());
  client.send("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(client.answer().status, 403);
}

TEST_F(ServiceTest, ARequestThatRunsTooLongEndsWithAnError) {
  start([](ServiceOptions& options) { options.limits.max_tokens = 1 << 20; },
        [](HttpOptions& http) {
          http.call_seconds = 0.2;
          http.unread_bytes = size_t{64} << 20;  // the client may be slow
        });
  Json endless = {{"prompt", "a"}, {"max_tokens", 1 << 20}, {"n", 2}, {"ignore_eos", true}};
  const Json error = post("/v1/completions", endless, 503)["error"];
  EXPECT_EQ(error["code"], "timeout");
  EXPECT_NE(error["message"].get<std::string>().find("0.2 s"), std::string::npos);
  endless["stream"] = true;
  const std::vector<Json> told = events(ask("POST", "/v1/completions", endless.dump()));
  ASSERT_TRUE(!told.empty() && told.back().contains("error"));
  EXPECT_EQ(told.back()["error"]["code"], "timeout");
  // It runs no more, and others are answered.
  const std::string none = "carousel:num_requests_running{model_name=\"small\"} 0";
  EXPECT_TRUE(comes_true([&] { return ask("GET", "/metrics").body.find(none) != none.npos; }));
  post("/v1/completions", {{"prompt", "a"}, {"max_tokens", 1}});
}

TEST_F(ServiceTest, TokensAreCountedAndSpelled) {
  start();
  EXPECT_EQ(post("/tokenize", {{"content", "AB"}})["tokens"], Json({65, 66}));
  EXPECT_EQ(post("/detokenize", {{"tokens", {65, 66}}})["content"], "AB");
  EXPECT_EQ(Json::parse(ask("GET", "/v1/models").body)["data"][0]["id"], "small");
  EXPECT_NE(ask("GET", "/metrics").body.find("carousel:num_requests_running{model_name=\"small\"} 0"),
            std::string::npos);
}

}  // namespace
}  // namespace carousel::serve
