// SPDX-License-Identifier: Apache-2.0
// /metrics: what Prometheus reads, under vLLM's names.
#include "carousel/serve/metrics.h"
#include "tests/comes_true.h"

#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

TEST(Histogram, CountsUpToEachBound) {
  Histogram histogram({1, 2, 5});
  for (const double value : {0.5, 1.0, 1.5, 4.0, 5.0, 6.0}) histogram.add(value);
  MetricsText out("a \"name\"");
  histogram.write(out, "x");
  EXPECT_EQ(out.text(),
            "# TYPE carousel:x histogram\n"
            "carousel:x_bucket{model_name=\"a \\\"name\\\"\",le=\"1\"} 2\n"
            "carousel:x_bucket{model_name=\"a \\\"name\\\"\",le=\"2\"} 3\n"
            "carousel:x_bucket{model_name=\"a \\\"name\\\"\",le=\"5\"} 5\n"
            "carousel:x_bucket{model_name=\"a \\\"name\\\"\",le=\"+Inf\"} 6\n"
            "carousel:x_sum{model_name=\"a \\\"name\\\"\"} 18\n"
            "carousel:x_count{model_name=\"a \\\"name\\\"\"} 6\n");
}

class Metrics : public ServiceTest {
 protected:
  /// The value of a line; labels: those after the model's, with a comma before them.
  double value(const std::string& name, const std::string& labels = "") {
    const std::string text = ask("GET", "/metrics").body;
    const std::string begin = "\ncarousel:" + name + "{model_name=\"small\"" + labels + "} ";
    const size_t at = text.find(begin);
    EXPECT_NE(at, text.npos) << begin << text;
    return at == text.npos ? -1 : std::strtod(text.c_str() + at + begin.size(), nullptr);
  }
};

TEST_F(Metrics, CountChoicesTokensAndTimes) {
  start();
  post("/v1/completions", {{"prompt", std::string(100, 'a')}, {"max_tokens", 5}, {"n", 2}, {"ignore_eos", true}});
  post("/v1/completions", {{"prompt", "b"}, {"max_tokens", 0}});
  EXPECT_EQ(value("request_success_total", ",finished_reason=\"length\""), 3);
  EXPECT_EQ(value("request_success_total", ",finished_reason=\"stop\""), 0);
  EXPECT_EQ(value("time_to_first_token_seconds_count"), 2);
  EXPECT_GT(value("time_to_first_token_seconds_sum"), 0);
  EXPECT_EQ(value("inter_token_latency_seconds_count"), 8);
  EXPECT_EQ(value("request_time_per_output_token_seconds_count"), 2);
  EXPECT_EQ(value("e2e_request_latency_seconds_count"), 3);
  EXPECT_GE(value("e2e_request_latency_seconds_sum"), value("time_to_first_token_seconds_sum"));
  EXPECT_EQ(value("request_prompt_tokens_sum"), 201);
  EXPECT_EQ(value("request_generation_tokens_sum"), 10);
  EXPECT_EQ(value("request_generation_tokens_bucket", ",le=\"5\""), 3);
  EXPECT_EQ(value("prompt_tokens_total"), 101);
  EXPECT_EQ(value("generation_tokens_total"), 10);
  EXPECT_EQ(value("running_state_bytes"), 0);
}

TEST_F(Metrics, ARequestThatIsLeftIsAborted) {
  start();
  {
    Client client(server_->port());
    client.ask("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 4096, "n": 20, "ignore_eos": true})");
    usleep(50000);
  }
  EXPECT_TRUE(comes_true([&] { return value("request_success_total", ",finished_reason=\"abort\"") == 20; }));
}

TEST_F(Metrics, MissesOfTheCacheHaveReasons) {
  start();
  const auto misses = [&](const std::string& prompt, const Json& more = Json::object()) {
    Json body = {{"prompt", prompt}, {"max_tokens", 1}, {"seed", 1}};
    body.update(more);
    return post("/v1/completions", body)["carousel"]["cache"];
  };
  const std::string text(200, 'a');
  EXPECT_EQ(misses(text), Json({{"new", 192}, {"end", 8}}));
  EXPECT_EQ(misses(text), Json({{"end", 8}}));
  // It leaves what is known after two pieces, where no state was kept; the next one finds it there.
  const std::string branch = text.substr(0, 130) + std::string(70, 'b');
  EXPECT_EQ(misses(branch), Json({{"no_state", 128}, {"new", 64}, {"end", 8}}));
  EXPECT_EQ(misses(text.substr(0, 130) + std::string(70, 'c')), Json({{"new", 64}, {"end", 8}}));
  EXPECT_EQ(misses(text, {{"echo", true}, {"logprobs", 0}}), Json({{"logprobs", 200}}));
  const std::string id = post("/v1/states", {{"prompt", text}})["id"];
  EXPECT_EQ(misses("ab", {{"state", id}}), Json({{"state", 2}}));
  EXPECT_EQ(value("prefix_cache_misses_total", ",reason=\"logprobs\""), 200);
  EXPECT_EQ(value("prefix_cache_misses_total", ",reason=\"state\""), 2);
  EXPECT_EQ(value("prefix_cache_misses_total", ",reason=\"no_state\""), 128);
  EXPECT_EQ(value("prefix_cache_misses_total", ",reason=\"new\""), 192 + 64 + 64);
  EXPECT_EQ(value("prefix_cache_queries_total"), 200 * 6);
  EXPECT_EQ(value("prefix_cache_hits_total"), 192 + 128 + 192);
  EXPECT_EQ(value("states"), 1);
  EXPECT_GT(value("state_bytes"), 0);
}

}  // namespace
}  // namespace carousel::serve
