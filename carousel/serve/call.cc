// SPDX-License-Identifier: Apache-2.0
// Answers in pieces, and errors in OpenAI's form.
#include "carousel/serve/call.h"

namespace carousel::serve {
namespace {

const char* type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

Json HttpError::json() const {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  return {
      {"error", {{"message", message}, {"type", type_of(status)}, {"param", or_null(param)}, {"code", or_null(code)}}}};
}

std::string HttpRequest::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

void Call::changed() {
  if (wake_) wake_();
}

void Call::answer(int status, std::string body, std::string type) {
  if (begun() || ended_) return;
  status_ = status;
  type_ = std::move(type);
  unread_ += body;
  end();
}

void Call::fail(const HttpError& error) {
  if (ended_) return;
  if (streams_) {  // the status is out
    event(error.json());
    return end();
  }
  for (const auto& [name, value] : error.headers) header(name, value);
  answer(error.json(), error.status);
}

void Call::begin_events() {
  if (begun() || ended_) return;
  status_ = 200;
  streams_ = true;
  type_ = "text/event-stream";
  changed();
}

void Call::event(std::string_view data, std::string_view name) {
  if (ended_) return;
  if (!name.empty()) unread_.append("event: ").append(name).append("\n");
  unread_.append("data: ").append(data).append("\n\n");
  changed();
}

void Call::end() {
  ended_ = true;
  when_gone_ = {};
  changed();
}

void Call::break_off(const HttpError& error) {
  const std::function<void()> then = std::move(when_gone_);
  when_gone_ = {};
  fail(error);
  if (then) then();
}

void Call::leave() {
  wake_ = {};
  ended_ = true;
  for (std::function<void()>* const end : {&when_gone_, &when_left_}) {
    const std::function<void()> then = std::exchange(*end, {});
    if (then) then();
  }
}

}  // namespace carousel::serve
