// SPDX-License-Identifier: Apache-2.0
// One request for text: its prompts run in the engine, its choices become one answer or a stream of events, in the
// form of the endpoint.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "carousel/serve/call.h"
#include "carousel/serve/served_model.h"

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
    std::string text;     // as it was given, for echo
    uint64_t number = 0;  // in the engine
    int64_t cached = 0;   // tokens that the state has seen
    int64_t hit = 0;      // tokens of `tokens` that the cache had read
  };
  struct LoggedToken {
    int32_t id;
    float logprob;
    std::vector<generate::TokenLogprob> top;
  };
  struct Choice {
    std::string text;
    std::vector<LoggedToken> logged;  // with logprobs
    size_t told = 0;                  // of `logged`, in events
    int64_t tokens = 0;
    std::string finish;  // "stop", "length"; empty: it goes on
    std::string state;   // the id it was kept under
  };

  void read_prompts(Fields& fields);
  void add_prompt(const Json& prompt);
  void read_state();
  generate::Request request_of(const Prompt& prompt) const;
  void hear(size_t prompt, Event& event);
  void end_choice(Choice& choice, generate::Finished& finished);
  void cancel();
  void send(size_t index, const std::string& text, bool ends);
  void finish();

  static Json chat_of_response(const Json& body);
  void send_response(const std::string& text, bool ends);
  void finish_response();
  void response_event(const char* type, Json fields);
  Json response(const char* status) const;
  Json response_message(const char* status) const;

  Json head(bool chunk) const;
  Json whole_choice(size_t index) const;
  Json chunk_choice(size_t index, const std::string& text, bool ends);
  Json logprobs(const Choice& choice, size_t from) const;
  Json usage() const;
  Json extras(const Choice& choice) const;
  std::string token_text(int32_t id) const;

  ServedModel& served_;
  const std::shared_ptr<Call> call_;
  const std::string owner_;
  Wish wish_;
  std::shared_ptr<const KeptState> from_;  // the state to go on from; null: the start
  std::vector<Prompt> prompts_;
  std::vector<Choice> choices_;  // of prompt p: from p * n on
  size_t ended_ = 0;
  bool over_ = false;  // answered, failed or cancelled: what the engine still tells is dropped
  std::string id_;
  int64_t created_ = 0;
  int64_t told_ = 0;  // events of a response
};

}  // namespace carousel::serve
