// SPDX-License-Identifier: Apache-2.0
// How long a client waits for a first token, and a stream for its next one, beside what the wait is made of.
#include <filesystem>
#include <fstream>

#include "carousel/serve/measure_lines.h"

namespace carousel::serve {
namespace {

/// The same prompt twice. Each round's prompt is new.
class Seen : public Line {
 public:
  explicit Seen(const Setting& setting) : setting_(setting), server_(setting.serve()) {
    first_token_ms(setting, *server_, setting.body(setting.options.seen_tokens, 1, kWarm));
  }
  Pair round(uint64_t number) override {
    const Json body = setting_.body(setting_.options.seen_tokens, 1, number);
    const double cold = first_token_ms(setting_, *server_, body);
    return {first_token_ms(setting_, *server_, body), cold};
  }

 private:
  static constexpr uint64_t kWarm = 1 << 20;  // a prompt of no round
  const Setting& setting_;
  std::unique_ptr<Loopback> server_;
};

/// All choices of a prompt, then one. An answer without events comes when every choice has its one token.
class Choices : public Line {
 public:
  explicit Choices(const Setting& setting) : setting_(setting), server_(setting.serve()) {
    for (const int64_t count : {setting.options.choices, int64_t{1}}) first_tokens(count, (1 << 20) + count);
  }
  Pair round(uint64_t number) override {
    const double all = first_tokens(setting_.options.choices, 2 * number);
    return {all, first_tokens(1, 2 * number + 1)};
  }

 private:
  double first_tokens(int64_t count, uint64_t draw) {
    Json body = setting_.body(setting_.options.forked_tokens, 1, draw);
    body["stream"] = false;
    body["n"] = count;
    return first_token_ms(setting_, *server_, body);
  }
  const Setting& setting_;
  std::unique_ptr<Loopback> server_;
};

/// Two states in a store, whose server has memory for one: each is read from its file when the other was used before.
class Stored : public Line {
 public:
  explicit Stored(const Setting& setting) : setting_(setting), folder_(setting.options.scratch + "/measured_store") {
    std::filesystem::remove_all(folder_);
    size_t bytes = 0;
    {
      const std::unique_ptr<Loopback> writer = setting.serve(folder_);
      for (size_t i = 0; i < 2; ++i) {
        Callers callers;
        const Caller& caller =
            call(*writer, callers, {{"prompt", setting.prompt(64, i)}, {"keep_state", "stored"}}, "/v1/states");
        read_until(
            callers, [&] { return caller.ended(); }, setting.stop);
        const Json card = caller.body();
        ids_.push_back(card.at("id"));
        bytes = card.at("bytes");
      }
    }
    file_.resize(std::filesystem::file_size(folder_ + "/" + ids_[0] + ".safetensors"));
    server_ = setting.serve(folder_, bytes * 3 / 2);
    round(0);
  }
  ~Stored() override {
    server_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Pair round(uint64_t) override {
    Pair all;
    for (const std::string& id : ids_) {
      const Json body = {{"state", id}, {"prompt", setting_.prompt(1, 7)}, {"max_tokens", 1}, {"stream", true}};
      all.served += first_token_ms(setting_, *server_, body) / static_cast<double>(ids_.size());
      const auto begin = std::chrono::steady_clock::now();
      std::ifstream(folder_ + "/" + id + ".safetensors", std::ios::binary)
          .read(file_.data(), static_cast<std::streamsize>(file_.size()));
      all.beside += ms_since(begin) / static_cast<double>(ids_.size());
    }
    return all;
  }

 private:
  const Setting& setting_;
  const std::string folder_;
  std::vector<std::string> ids_;
  std::vector<char> file_;  // of one state, read into memory that is there
  std::unique_ptr<Loopback> server_;
};

/// A stream beside which a new prompt is read.
class GapRead : public Line {
 public:
  explicit GapRead(const Setting& setting) : setting_(setting), server_(setting.serve()) {}
  Pair round(uint64_t number) override {
    Callers callers;
    begin_endless(setting_, *server_, callers, 1);
    const Caller& stream = *callers[0];
    // The rate of reading is known from the first prompt on, as in a server that runs for a while.
    read_beside(callers, 512, 2 * number);
    const size_t first = stream.times().size() - 1;
    read_beside(callers, setting_.options.read_tokens, 2 * number + 1);
    return {quantile(gaps(stream.times(), first), 0.99), kTickMs};
  }

 private:
  void read_beside(Callers& callers, int64_t tokens, uint64_t draw) {
    const Caller& reader = call(*server_, callers, setting_.body(tokens, 1, draw));
    read_until(
        callers, [&] { return reader.ended(); }, setting_.stop);
    callers.pop_back();
  }
  const Setting& setting_;
  std::unique_ptr<Loopback> server_;
};

/// A stream, first alone, then while one client after another keeps a state and waits until it is stored.
class GapSaved : public Line {
 public:
  explicit GapSaved(const Setting& setting)
      : setting_(setting), folder_(setting.options.scratch + "/measured_store"), server_(setting.serve(folder_)) {}
  ~GapSaved() override {
    server_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  Pair round(uint64_t number) override {
    Callers callers;
    begin_endless(setting_, *server_, callers, 1);
    const double alone = phase(callers, false, number);
    return {phase(callers, true, number), alone};
  }

 private:
  double phase(Callers& callers, bool saves, uint64_t number) {
    const auto begin = std::chrono::steady_clock::now();
    const auto over = [&] { return ms_since(begin) >= setting_.options.phase_seconds * 1000; };
    const size_t first = callers[0]->times().size() - 1;
    if (!saves) read_until(callers, over, setting_.stop);
    while (!over()) {
      const Json body = {{"prompt", setting_.prompt(1, number)}, {"keep_state", "stored"}};
      const Caller& saver = call(*server_, callers, body, "/v1/states");
      read_until(
          callers, [&] { return saver.ended(); }, setting_.stop);
      callers.pop_back();
    }
    return quantile(gaps(callers[0]->times(), first), 0.99);
  }
  const Setting& setting_;
  const std::string folder_;
  std::unique_ptr<Loopback> server_;
};

}  // namespace

std::unique_ptr<Line> make_seen(const Setting& setting) { return std::make_unique<Seen>(setting); }
std::unique_ptr<Line> make_choices(const Setting& setting) { return std::make_unique<Choices>(setting); }
std::unique_ptr<Line> make_stored(const Setting& setting) { return std::make_unique<Stored>(setting); }
std::unique_ptr<Line> make_gap_read(const Setting& setting) { return std::make_unique<GapRead>(setting); }
std::unique_ptr<Line> make_gap_saved(const Setting& setting) { return std::make_unique<GapSaved>(setting); }

}  // namespace carousel::serve
