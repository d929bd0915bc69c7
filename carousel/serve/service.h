// SPDX-License-Identifier: Apache-2.0
// The endpoints: who may call, which of them answers, and the errors of all.
#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "carousel/serve/call.h"
#include "carousel/serve/served_model.h"

namespace carousel::serve {

struct ServiceOptions {
  std::string path;                // of the model
  std::string name;                // of the model, in answers
  std::string chat_template;       // "": the model's own; "chatml"
  std::vector<std::string> keys;   // empty: anybody may call
  std::vector<std::string> hosts;  // names that a request may be addressed to; empty: any
  std::string scratch;             // a folder for files under way
  WishLimits limits;
  EngineOptions engine;
  size_t state_bytes = 0;  // of memory, for the states that clients keep
  StoreOptions store;
};

/// A state as answers describe it.
Json json_of(const StateCard& card);

class Service {
 public:
  /// `post`: Engine's. `model` must outlive the service.
  Service(const model::Model& model, const Stream& stream, const ServiceOptions& options, Engine::Post post);

  /// Answers a call, now or later. Throws nothing.
  void handle(const std::shared_ptr<Call>& call);
  /// Throws HttpError for a request that is refused whatever its body: its host, path, method or key are wrong.
  void screen(const HttpRequest& head);
  /// What the engine counts; any thread may read it.
  const EngineFigures& figures() const { return served_.engine.figures(); }
  /// From now on /health says that the server goes, and new work is refused.
  void drain() { draining_ = true; }

 private:
  struct Route;
  static const Route kRoutes[];

  void handle(const std::shared_ptr<Call>& call, const std::shared_ptr<StoreAnswers>& answers, int asked);
  void route(const std::shared_ptr<Call>& call);
  const Route& route_of(const HttpRequest& request) const;
  void check_host(const HttpRequest& request) const;
  std::string owner_of(const HttpRequest& request) const;
  std::string owner_of(const Call& call) const { return owner_of(call.request()); }

  // `rest`: what the path has beyond the route's.
  void completions(const std::shared_ptr<Call>& call, const std::string& rest);
  void chat(const std::shared_ptr<Call>& call, const std::string& rest);
  void read_state(const std::shared_ptr<Call>& call, const std::string& rest);
  void states(const std::shared_ptr<Call>& call, const std::string& rest);
  void state(const std::shared_ptr<Call>& call, const std::string& rest);
  void remove_state(const std::shared_ptr<Call>& call, const std::string& rest);
  void upload_state(const std::shared_ptr<Call>& call, const std::string& rest);
  void responses(const std::shared_ptr<Call>& call, const std::string& rest);
  void response(const std::shared_ptr<Call>& call, const std::string& rest);
  void remove_response(const std::shared_ptr<Call>& call, const std::string& rest);
  void embeddings(const std::shared_ptr<Call>& call, const std::string& rest);
  void models(const std::shared_ptr<Call>& call, const std::string& rest);
  void model_card(const std::shared_ptr<Call>& call, const std::string& rest);
  void health(const std::shared_ptr<Call>& call, const std::string& rest);
  void live(const std::shared_ptr<Call>& call, const std::string& rest);
  void props(const std::shared_ptr<Call>& call, const std::string& rest);
  void metrics(const std::shared_ptr<Call>& call, const std::string& rest);
  void tokenize(const std::shared_ptr<Call>& call, const std::string& rest);
  void detokenize(const std::shared_ptr<Call>& call, const std::string& rest);

  void check_open() const;  // throws HttpError (503) once the server goes
  void generate(const std::shared_ptr<Call>& call, Form form);
  void forget(const std::shared_ptr<Call>& call, const std::string& id, const char* object);
  void state_file(const std::shared_ptr<Call>& call, const std::string& id);
  using Then = std::function<void()>;
  void beside(const std::shared_ptr<Call>& call, std::function<Then()> work);
  void rewind(const std::shared_ptr<Call>& call, const std::string& id, int64_t tokens, bool wait);
  Json card() const;

  const ServiceOptions options_;
  ServedModel served_;
  const std::time_t started_ = std::time(nullptr);
  bool draining_ = false;
  int64_t answered_ = 0, refused_ = 0;  // calls
  const Engine::Post post_;
  Lane files_{Lane::Rest::kDrop};  // last: it uses all of the above
};

}  // namespace carousel::serve
