// SPDX-License-Identifier: Apache-2.0
// One request for text: its prompts run in the engine, its choices become one answer or a stream of events, in the
// form of the endpoint.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "carousel/serve/call.h"
#include "carousel/serve/served_model.h"
#include "carousel/serve/submissions.h"

namespace carousel::serve {

class Generation : public std::enable_shared_from_this<Generation> {
 public:
  /// `owner`: whose states it may use. Throws HttpError for a body that cannot be used.
  Generation(ServedModel& served, std::shared_ptr<Call> call, Form form, const std::string& owner);
  /// Hands the prompts to the engine. Throws HttpError (429) where its queue is full.
  void start();

 private:
  struct Prompt {
    std::vector<int32_t> tokens;
    std::string text;                 // as it was given, for echo
    uint64_t number = 0;              // in the engine
    int64_t cached = 0;               // tokens that the state has seen
    Misses missed = {};               // why the others were read
    int64_t hit = 0;                  // tokens of `tokens` that the cache had read
    int64_t running = 0;              // samples that the engine has not ended
    std::vector<LoggedToken> logged;  // with echo and logprobs
  };
  struct Choice {
    explicit Choice(ChoiceClock::Time begin) : clock(begin) {}

    ChoiceClock clock;
    bool counted = false;  // its end is in the metrics
    std::string text;
    bool begun = false;               // an event of it came
    std::vector<LoggedToken> logged;  // with logprobs; with echo the prompt's come first
    size_t told = 0;                  // of `logged`, in answers or events
    size_t offset = 0;                // characters of their texts
    int64_t tokens = 0;
    std::vector<int32_t> ids;               // of its text, end tokens left out
    std::string finish;                     // "stop", "length"; empty: it goes on
    std::string state;                      // the id it was kept under
    std::shared_ptr<const KeptState> kept;  // with keep_state
  };

  void read_prompts(Fields& fields);
  void add_prompt(const Json& prompt);
  void read_state();
  generate::Request request_of(const Prompt& prompt) const;
  void send_prompts();
  void hear(size_t prompt, Event& event);
  void end_sample(Prompt& prompt);
  void begin_choice(size_t index);
  void begin_chunks();
  void end_choice(Choice& choice, generate::Finished& finished);
  void tell(size_t index, const std::string& text, bool ends);
  void wait_stored(size_t index, const std::string& text);
  void offer_reread() const;
  void count_choice(size_t index, ChoiceClock::Time at);
  void cancel(RequestMetrics::Reason reason);
  void withdraw();
  void send(size_t index, const std::string& text, bool ends);
  void finish();

  static Json chat_of_response(const Json& body);
  void send_response(const std::string& text, bool ends);
  void finish_response();
  void answer_response(const Json& whole);
  void response_event(const char* type, Json fields);
  Json response(const char* status) const;
  Json response_message(const char* status) const;

  Json head(bool chunk) const;
  Json whole_choice(size_t index);
  Json chunk_choice(size_t index, const std::string& text, bool ends);
  Json logprobs(Choice& choice) const;
  Json usage() const;
  static Json cache(std::span<const Prompt> prompts);
  Json extras(size_t index) const;
  const Prompt& prompt_of(size_t choice) const { return prompts_[choice / static_cast<size_t>(wish_.request.samples)]; }
  std::string token_text(int32_t id) const;

  ServedModel& served_;
  const std::shared_ptr<Call> call_;
  const std::string owner_;
  Wish wish_;
  std::shared_ptr<const KeptState> from_;  // the state to go on from; null: the start
  std::vector<Prompt> prompts_;
  Submissions submissions_;      // of the prompts
  std::vector<Choice> choices_;  // of prompt p: from p * n on
  size_t ended_ = 0;
  bool over_ = false;  // answered, failed or cancelled: what the engine still tells is dropped
  std::string id_;
  int64_t created_ = 0;
  int64_t told_ = 0;  // events of a response
};

}  // namespace carousel::serve
