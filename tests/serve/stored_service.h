// SPDX-License-Identifier: Apache-2.0
// A server of a test whose states outlive it, whatever the store is.
#pragma once

#include <functional>
#include <string>

#include "tests/serve/running_service.h"

namespace carousel::serve {

class StoredService : public ServiceTest {
 protected:
  using Change = std::function<void(ServiceOptions&)>;
  /// Says where the store is.
  virtual void place(StoreOptions& store) const = 0;
  void begin(const Change& change = {}) { begin(*this, change); }
  void begin(RunningService& server, const Change& change = {}) const {
    server.start([&](ServiceOptions& options) {
      place(options.store);
      if (change) change(options);
    });
  }
  Answer try_keep(const std::string& prompt) {
    const Json body = {{"prompt", std::string(80, 'x') + prompt}, {"keep_state", "stored"}};
    return ask("POST", "/v1/states", body.dump());
  }
  /// A state of 80 tokens and those of `prompt`, told once it is stored.
  std::string keep(const std::string& prompt) {
    const Answer answer = try_keep(prompt);
    EXPECT_EQ(answer.status, 200) << answer.body;
    const Json card = Json::parse(answer.body);
    EXPECT_EQ(card["stored"], true);
    return card["id"];
  }
  static Json go_on(RunningService& server, const std::string& id, int status = 200) {
    const Json body = {{"state", id}, {"prompt", "y"}, {"max_tokens", 9}, {"seed", 3}};
    const Json answer = server.post("/v1/completions", body, status);
    return status == 200 ? answer["choices"][0]["text"] : answer["error"];
  }
  void go_on_from_each_others_ids() {
    RunningService other;
    begin();
    begin(other);
    const std::string id = keep("b");
    const Json said = go_on(*this, id);
    EXPECT_EQ(go_on(other, id), said);
    EXPECT_EQ(other.ask("DELETE", "/v1/states/" + id).status, 200);
    go_on(*this, id, 404);
  }
};

}  // namespace carousel::serve
