// SPDX-License-Identifier: Apache-2.0
// Tokens per second of streams beside a batcher that has the model to itself: what HTTP, events and their reader cost.
// The reader is a thread of this process, and its time is the server's loss.
#include "carousel/serve/measure_lines.h"

namespace carousel::serve {
namespace {

class Streams : public Line {
 public:
  Streams(const Setting& setting, int64_t streams)
      : setting_(setting), streams_(streams), server_(setting.serve()), batcher_(setting.model, setting.stream) {
    served(0);  // the engine and the batcher take their memory
    alone(0);
  }
  Pair round(uint64_t number) override {
    const bool first = number % 2 == 0;
    const double before = first ? alone(number) : 0;
    const double rate = served(number);
    return {rate, first ? before : alone(number)};
  }

 private:
  static constexpr int64_t kPrompt = 8;  // tokens
  uint64_t draw_of(uint64_t number, int64_t stream) const {
    return number * static_cast<uint64_t>(streams_) + static_cast<uint64_t>(stream);
  }
  double tokens() const { return static_cast<double>(streams_ * setting_.options.stream_tokens); }

  double served(uint64_t number) {
    Callers callers;
    std::vector<Json> bodies;
    for (int64_t i = 0; i < streams_; ++i) {
      callers.push_back(std::make_unique<Caller>(server_->port()));
      bodies.push_back(setting_.body(kPrompt, setting_.options.stream_tokens, draw_of(number, i)));
    }
    const auto begin = std::chrono::steady_clock::now();
    for (size_t i = 0; i < callers.size(); ++i) callers[i]->ask("POST", "/v1/completions", bodies[i]);
    read_until(
        callers,
        [&] { return std::all_of(callers.begin(), callers.end(), [](const auto& caller) { return caller->ended(); }); },
        setting_.stop);
    return tokens() / ms_since(begin) * 1000;
  }

  double alone(uint64_t number) {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < streams_; ++i) {
      generate::Request request;
      const uint64_t draw = draw_of(number, i);
      request.prompt = setting_.prompt(kPrompt, draw);
      request.max_tokens = setting_.options.stream_tokens;
      request.seed = draw % 1000;
      request.sampler.ignore_eos = true;
      batcher_.submit(std::move(request));
    }
    while (batcher_.live() > 0 && !(setting_.stop && setting_.stop())) batcher_.tick();
    return tokens() / ms_since(begin) * 1000;
  }

  const Setting& setting_;
  const int64_t streams_;
  std::unique_ptr<Loopback> server_;
  generate::Batcher batcher_;
};

}  // namespace

std::unique_ptr<Line> make_streams(const Setting& setting, int64_t streams) {
  return std::make_unique<Streams>(setting, streams);
}

}  // namespace carousel::serve
