// SPDX-License-Identifier: Apache-2.0
// /v1/embeddings: the hidden state of a text's last token is that of a plain forward, scaled to length 1, whatever else
// runs and whatever the cache has read.
#include <cmath>
#include <cstring>

#include "carousel/model/runner.h"
#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

class Embeddings : public ServiceTest {
 protected:
  std::vector<float> plain(const std::string& text) const {
    const std::vector<int32_t> tokens = small_.model.text().encode(text);
    model::Runner runner(*small_.model.lm, small_.stream);
    const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
    const Tensor hidden = runner.forward(tokens, lengths).to_host();
    const float* const last = hidden.f32() + (hidden.dim(0) - 1) * hidden.dim(1);
    std::vector<float> row(last, last + hidden.dim(1));
    double squares = 0;
    for (const float value : row) squares += static_cast<double>(value) * static_cast<double>(value);
    for (float& value : row) value = static_cast<float>(static_cast<double>(value) * (1 / std::sqrt(squares)));
    return row;
  }
  static std::vector<float> from_base64(const std::string& text) {
    const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string bytes;
    uint32_t group = 0;
    int bits = 0;
    for (const char c : text.substr(0, text.find('='))) {
      group = group << 6 | static_cast<uint32_t>(digits.find(c));
      bits += 6;
      if (bits < 8) continue;
      bits -= 8;
      bytes += static_cast<char>(group >> bits & 255);
    }
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
    return out;
  }
};

TEST_F(Embeddings, AreThoseOfAPlainForward) {
  start([](ServiceOptions& options) { options.engine.tick_ms = 0.01; });
  Client neighbour(server_->port());
  neighbour.ask("POST", "/v1/completions", Json{{"prompt", "beside it"}, {"max_tokens", 400}}.dump());
  const std::string text(300, 'q');
  for (int round = 0; round < 2; ++round) {  // the second one finds its beginning in the cache
    const Json answer = post("/v1/embeddings", {{"model", "small"}, {"input", text}});
    EXPECT_EQ(answer["object"], "list");
    EXPECT_EQ(answer["data"][0]["object"], "embedding");
    EXPECT_EQ(answer["data"][0]["embedding"].get<std::vector<float>>(), plain(text));
    EXPECT_EQ(answer["usage"]["prompt_tokens"], 300);
    EXPECT_EQ(answer["usage"]["total_tokens"], 300);
    EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], round == 0 ? 0 : 256);
  }
}

TEST_F(Embeddings, OfAListKeepTheirOrderBeyondTheQueue) {
  start([](ServiceOptions& options) {
    options.engine.queue = 3;
    options.engine.parallel = 2;
  });
  Json texts = Json::array();
  for (int i = 0; i < 20; ++i) texts.push_back("text " + std::to_string(i));
  const Json answer = post("/v1/embeddings", {{"input", texts}, {"encoding_format", "base64"}, {"dimensions", 32}});
  ASSERT_EQ(answer["data"].size(), 20u);
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(answer["data"][i]["index"], i);
    EXPECT_EQ(from_base64(answer["data"][i]["embedding"]), plain(texts[i]));
  }
}

TEST_F(Embeddings, OfManyTextsRunAFewAtATime) {
  start();  // a queue of 256
  Json texts = Json::array();
  for (int i = 0; i < 700; ++i) texts.push_back(std::to_string(i));
  const Json answer = post("/v1/embeddings", {{"input", texts}});
  ASSERT_EQ(answer["data"].size(), 700u);
  for (const size_t i : {0, 255, 699}) {
    EXPECT_EQ(answer["data"][i]["embedding"].get<std::vector<float>>(), plain(std::to_string(i)));
  }
}

TEST_F(Embeddings, BadInputIsNamed) {
  start();
  const Json cases[] = {{{"input", ""}},        {{"input", Json::array()}},
                        {{"input", {"a", ""}}}, {{"input", {Json::array()}}},
                        {{"input", {1, 256}}},  {{"input", 5}},
                        Json::object()};
  for (const Json& body : cases) EXPECT_EQ(post("/v1/embeddings", body, 400)["error"]["param"], "input") << body;
  EXPECT_EQ(post("/v1/embeddings", {{"input", "a"}, {"dimensions", 16}}, 400)["error"]["param"], "dimensions");
  EXPECT_EQ(post("/v1/embeddings", {{"input", "a"}, {"encoding_format", "text"}}, 400)["error"]["param"],
            "encoding_format");
  post("/v1/embeddings", {{"input", "a"}, {"model", "other"}}, 404);
}

}  // namespace
}  // namespace carousel::serve
