// SPDX-License-Identifier: Apache-2.0
// /v1/states: the states that clients keep, read, rewound, listed, deleted, and as files (docs/state.md).
#include <fmt/format.h>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/serve/generation.h"
#include "carousel/serve/scratch_file.h"
#include "carousel/serve/service.h"

namespace carousel::serve {
namespace {

constexpr size_t kMaxFile = size_t{1} << 30;

}  // namespace

Json json_of(const StateCard& card) {
  return {{"id", card.id},
          {"object", "state"},
          {"parent", card.parent.empty() ? Json() : Json(card.parent)},
          {"tokens", card.tokens},
          {"bytes", card.bytes},
          {"stored", card.stored},
          {"created", card.created},
          {"expires_at", card.expires == 0 ? Json() : Json(card.expires)}};
}

/// {"prompt" or "messages", "state"}: reads without sampling. {"state", "to"}: rewinds.
void Service::read_state(const std::shared_ptr<Call>& call, const std::string&) {
  const Json body = read_body(*call);
  if (!body.contains("to")) return generate(call, Form::kState);
  Fields fields(body, "request");
  const std::string id = fields.string("state");
  const std::shared_ptr<const KeptState> kept = served_.states.find(id, owner_of(*call));
  const int64_t tokens = fields.integer("to", 1, kept->saved.state.pos());
  const bool wait = waits_for_store(fields, served_.states.has_store());
  fields.finish();
  rewind(call, id, tokens, wait);
}

/// Reads the tokens after the nearest ancestor again. The state that comes of it is another one of the same lineage.
void Service::rewind(const std::shared_ptr<Call>& call, const std::string& id, int64_t tokens, bool wait) {
  check_open();
  const std::string owner = owner_of(*call);
  const std::shared_ptr<const KeptState> whole = served_.states.find(id, owner);
  const std::shared_ptr<const KeptState> from = served_.states.ancestor(id, owner, tokens);
  const auto cached = from ? from->saved.tokens.size() : 0;
  const auto end = whole->saved.tokens.begin() + tokens;
  generate::Request request;
  request.prompt.assign(whole->saved.tokens.begin() + static_cast<std::ptrdiff_t>(cached), end);
  request.max_tokens = 0;
  request.keep_state = true;
  if (from) {
    request.state = from->saved.state;
    request.history = from->saved.tokens;
    request.logits = from->saved.logits;
  }
  if (request.prompt.empty() && !request.logits.defined()) return call->answer(json_of(*from));
  const auto hear = [this, call, from, owner, cached, wait](Event& event) {
    if (!event.end || call->ended()) return;
    try {
      if (event.end->reason != generate::StopReason::kLength) return call->fail(failure_of(event));
      model::SavedState saved{std::move(event.end->state), std::move(event.end->history), std::move(event.end->logits)};
      const auto kept = served_.states.add(std::move(saved), from ? from->id : "", owner);
      const auto answer = [call, kept, cached](const HttpError& error) {
        if (error.status != 0) return call->fail(error);
        Json card = json_of(*kept);
        card["usage"] = {{"prompt_tokens_details", {{"cached_tokens", cached}}}};
        call->answer(card);
      };
      if (wait) return served_.states.when_stored(kept->id, answer);
      answer(kNoError);
    } catch (const HttpError& error) {
      call->fail(error);
    } catch (const Error& error) {
      call->fail(error_answer(error));
    }
  };
  const uint64_t number = served_.engine.submit(std::move(request), hear, domain_of(owner, ""));
  call->when_gone([this, number] { served_.engine.cancel(number); });
}

void Service::states(const std::shared_ptr<Call>& call, const std::string&) {
  Json list = Json::array();
  for (const StateCard& card : served_.states.list(owner_of(*call))) list.push_back(json_of(card));
  call->answer(Json{{"object", "list"}, {"data", list}});
}

void Service::state(const std::shared_ptr<Call>& call, const std::string& rest) {
  const std::string file = "/file";
  if (rest.ends_with(file)) return state_file(call, rest.substr(0, rest.size() - file.size()));
  call->answer(json_of(served_.states.card(rest, owner_of(*call))));
}

void Service::remove_state(const std::shared_ptr<Call>& call, const std::string& rest) { forget(call, rest, "state"); }

void Service::forget(const std::shared_ptr<Call>& call, const std::string& id, const char* object) {
  served_.states.remove(id, owner_of(*call), [call, id, object](const HttpError& error) {
    if (error.status != 0) return call->fail(error);
    call->answer(Json{{"id", id}, {"object", object}, {"deleted", true}});
  });
}

void Service::state_file(const std::shared_ptr<Call>& call, const std::string& id) {
  beside(call, [this, call, kept = served_.states.find(id, owner_of(*call))]() -> Then {
    const ScratchFile file(options_.scratch);
    model::save_state(file.path(), kept->saved, served_.model);
    return
        [call, bytes = read_text_file(file.path(), kMaxFile)] { call->answer(200, bytes, "application/octet-stream"); };
  });
}

void Service::upload_state(const std::shared_ptr<Call>& call, const std::string&) {
  beside(call, [this, call, owner = owner_of(*call)]() -> Then {
    const ScratchFile file(options_.scratch);
    write_text_file(file.path(), call->request().body);
    model::SavedState saved;
    try {
      saved = load_file(file.path(), served_.model);
    } catch (const Error& error) {
      throw HttpError{422, error.what(), "", "state_refused", {}};
    }
    return [this, call, owner, saved] { call->answer(json_of(*served_.states.add(saved, "", owner))); };
  });
}

}  // namespace carousel::serve
