// SPDX-License-Identifier: Apache-2.0
// /v1/responses: a chat whose answer is kept as a state, so that previous_response_id goes on from it.
#include <fmt/format.h>

#include <utility>

#include "carousel/core/error.h"
#include "carousel/serve/generation.h"
#include "carousel/serve/service.h"

namespace carousel::serve {
namespace {

/// An item of "input" as a message of a chat.
Json message_of(const Json& item) {
  Fields fields(item, "request: \"input\" item");
  const std::string type = fields.string("type", "message");
  if (type != "message") fail(ErrorKind::kInput, "request: \"input\" holds a \"{}\", expected messages", type);
  Json message = {{"role", fields.string("role")}, {"content", ""}};
  const Json* const content = fields.raw("content");
  if (content == nullptr || !content->is_array()) {
    if (content != nullptr) message["content"] = *content;
    return message;
  }
  message["content"] = Json::array();
  for (Json part : *content) {
    if (part.is_object()) {
      Fields words(part, "request: \"content\" part");
      const std::string kind = words.string("type", "");
      if (kind == "input_text" || kind == "output_text") part = {{"type", "text"}, {"text", words.string("text", "")}};
    }
    message["content"].push_back(std::move(part));
  }
  return message;
}

}  // namespace

/// The body of a chat that asks for the same.
Json Generation::chat_of_response(const Json& body) {
  Json chat = body;
  Fields fields(body, "request");
  Json messages = Json::array();
  const std::string instructions = fields.string("instructions", "");
  if (!instructions.empty()) messages.push_back({{"role", "system"}, {"content", instructions}});
  const Json* const input = fields.raw("input");
  if (input != nullptr && input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
  } else if (input != nullptr && input->is_array()) {
    for (const Json& item : *input) messages.push_back(message_of(item));
  } else {
    fail(ErrorKind::kInput, "request: \"input\" is {}, expected text or a list of messages",
         input == nullptr ? "missing" : brief(*input));
  }
  const std::string before = fields.string("previous_response_id", "");
  fields.boolean("store", true);
  if (fields.boolean("background", false)) {
    fail(ErrorKind::kInput, "request: \"background\" is true, expected false: this server cannot do that");
  }
  for (const char* const name : {"input", "instructions", "previous_response_id", "background"}) chat.erase(name);
  chat["messages"] = std::move(messages);
  if (!before.empty()) chat["state"] = before;
  return chat;
}

Json Generation::response_message(const char* status) const {
  return {{"type", "message"},
          {"id", "msg" + id_.substr(4)},
          {"status", status},
          {"role", "assistant"},
          {"content", {{{"type", "output_text"}, {"text", choices_[0].text}, {"annotations", Json::array()}}}}};
}

Json Generation::response(const char* status) const {
  const bool over = std::string_view(status) != "in_progress";
  const bool cut = over && choices_[0].finish == "length";
  const Json counts = usage();
  const generate::SamplerParams& sampler = wish_.request.sampler;
  Json out = {{"id", id_},
              {"object", "response"},
              {"created_at", created_},
              {"status", cut ? "incomplete" : status},
              {"incomplete_details", cut ? Json{{"reason", "max_output_tokens"}} : Json()},
              {"error", nullptr},
              {"instructions", nullptr},
              {"metadata", Json::object()},
              {"model", served_.name},
              {"output", Json::array()},
              {"parallel_tool_calls", false},
              {"previous_response_id", from_ ? Json(from_->id) : Json()},
              {"store", wish_.request.keep_state},
              {"temperature", sampler.temp},
              {"top_p", sampler.top_p},
              {"tool_choice", "none"},
              {"tools", Json::array()},
              {"usage", nullptr}};
  if (!over) return out;
  out["output"].push_back(response_message(cut ? "incomplete" : "completed"));
  out["usage"] = {{"input_tokens", counts["prompt_tokens"]},
                  {"input_tokens_details", counts["prompt_tokens_details"]},
                  {"output_tokens", counts["completion_tokens"]},
                  {"output_tokens_details", {{"reasoning_tokens", 0}}},
                  {"total_tokens", counts["total_tokens"]}};
  out["carousel"] = {{"seed", wish_.request.seed}, {"cache", cache(prompts_)}};
  return out;
}

void Generation::response_event(const char* type, Json fields) {
  fields["type"] = type;
  fields["sequence_number"] = told_++;
  call_->event(fields, type);
}

void Generation::send_response(const std::string& text, bool ends) {
  const Json place = {{"item_id", "msg" + id_.substr(4)}, {"output_index", 0}, {"content_index", 0}};
  const auto placed = [&](Json fields) {
    fields.update(place);
    return fields;
  };
  if (!call_->begun()) {
    call_->begin_events();
    response_event("response.created", {{"response", response("in_progress")}});
    response_event("response.in_progress", {{"response", response("in_progress")}});
    Json item = response_message("in_progress");
    item["content"] = Json::array();
    response_event("response.output_item.added", {{"output_index", 0}, {"item", item}});
    response_event("response.content_part.added",
                   placed({{"part", {{"type", "output_text"}, {"text", ""}, {"annotations", Json::array()}}}}));
  }
  if (!text.empty())
    response_event("response.output_text.delta", placed({{"delta", text}, {"logprobs", Json::array()}}));
  if (!ends) return;
  const Json item = response_message(choices_[0].finish == "length" ? "incomplete" : "completed");
  response_event("response.output_text.done", placed({{"text", choices_[0].text}, {"logprobs", Json::array()}}));
  response_event("response.content_part.done", placed({{"part", item["content"][0]}}));
  response_event("response.output_item.done", {{"output_index", 0}, {"item", item}});
}

void Generation::finish_response() {
  const Json whole = response("completed");
  if (wish_.request.keep_state) served_.states.attach(id_, whole);
  if (!wish_.wait_stored) return answer_response(whole);
  served_.states.when_stored(id_, [self = shared_from_this(), whole](const HttpError& error) {
    if (error.status == 0) return self->answer_response(whole);
    self->call_->fail(error);
  });
}

void Generation::answer_response(const Json& whole) {
  if (!wish_.stream) return call_->answer(whole);
  response_event(whole["status"] == "completed" ? "response.completed" : "response.incomplete", {{"response", whole}});
  call_->end();
}

void Service::responses(const std::shared_ptr<Call>& call, const std::string&) { generate(call, Form::kResponse); }

void Service::response(const std::shared_ptr<Call>& call, const std::string& rest) {
  const StateCard card = served_.states.card(rest, owner_of(*call));
  if (card.answer.is_null()) throw HttpError{404, fmt::format("response: \"{}\" is none", rest), "", "", {}};
  call->answer(card.answer);
}

void Service::remove_response(const std::shared_ptr<Call>& call, const std::string& rest) {
  forget(call, rest, "response");
}

}  // namespace carousel::serve
