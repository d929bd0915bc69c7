// SPDX-License-Identifier: Apache-2.0
// From a body to requests of the engine, and from its events to OpenAI's answers.
#include "carousel/serve/generation.h"

#include <fmt/format.h>

#include <ctime>

#include "carousel/core/error.h"
#include "carousel/model/start_token.h"
#include "carousel/text/unicode.h"

namespace carousel::serve {
namespace {

constexpr size_t kMaxPrompts = 2048;

bool is_ids(const Json& value) { return value.is_array() && !value.empty() && value[0].is_number(); }

}  // namespace

Json read_body(const Call& call) {
  JsonLimits limits;
  limits.max_depth = 64;
  if (text::valid_prefix(call.request().body) != call.request().body.size()) {
    fail(ErrorKind::kInput, "request: the body is not UTF-8");
  }
  Json body = parse_json(call.request().body, "request", limits);
  if (!body.is_object()) fail(ErrorKind::kInput, "request: the body is {}, expected an object", brief(body));
  return body;
}

Generation::Generation(ServedModel& served, std::shared_ptr<Call> call, Form form, const std::string& owner)
    : served_(served), call_(std::move(call)), owner_(owner), created_(std::time(nullptr)) {
  const Json body = form == Form::kResponse ? chat_of_response(read_body(*call_)) : read_body(*call_);
  wish_.form = form;
  Fields fields(body, "request");
  const std::string name = fields.string("model", served_.name);
  if (name != served_.name) {
    throw HttpError{
        404, fmt::format("model: got \"{}\", expected \"{}\"", name, served_.name), "model", "model_not_found", {}};
  }
  const std::string state = fields.string("state", "");
  if (!state.empty()) from_ = served_.states.find(state, owner_);
  read_prompts(fields);
  fields.ignore({"user", "metadata", "store"});
  wish_ = read_wish(form, body, fields, served_.limits);
  constexpr const char* kPrefixes[] = {"cmpl", "chatcmpl", "read", "resp"};  // by form
  id_ = draw_id(kPrefixes[static_cast<size_t>(form)]);
  if (form == Form::kState) {
    wish_.request.max_tokens = 0;
    wish_.request.samples = 1;
    wish_.request.keep_state = true;
    wish_.stream = false;
  }
  if (form == Form::kResponse) {
    wish_.request.samples = 1;
    wish_.request.keep_state = body.value("store", true);
  }
  if (form != Form::kCompletion && !served_.conversations.stop().empty()) {
    wish_.request.stop.push_back(served_.conversations.stop());
  }
  if (!wish_.ignored.empty()) call_->header("x-carousel-ignored", wish_.ignored);
  choices_.resize(prompts_.size() * static_cast<size_t>(wish_.request.samples));
}

/// messages, or a prompt: text, ids, or a list of either.
void Generation::read_prompts(Fields& fields) {
  const Json* const messages = wish_.form == Form::kCompletion ? nullptr : fields.raw("messages");
  if (messages != nullptr) {
    const std::span<const int32_t> seen =
        from_ ? std::span<const int32_t>(from_->saved.tokens) : std::span<const int32_t>();
    prompts_.push_back({served_.conversations.tokens(*messages, seen), "", 0, static_cast<int64_t>(seen.size())});
    return;
  }
  if (wish_.form == Form::kChat || wish_.form == Form::kResponse)
    fail(ErrorKind::kInput, "request: \"messages\" is missing, expected a list");
  const Json* const prompt = fields.raw("prompt");
  if (prompt == nullptr) {
    add_prompt("");
  } else if (prompt->is_string() || is_ids(*prompt)) {
    add_prompt(*prompt);
  } else if (prompt->is_array() && !prompt->empty() && prompt->size() <= kMaxPrompts) {
    for (const Json& one : *prompt) add_prompt(one);
  } else {
    fail(ErrorKind::kInput, "request: \"prompt\" is {}, expected text, token ids, or a list of 1 to {} of them",
         brief(*prompt), kMaxPrompts);
  }
  if (from_ && prompts_.size() > 1) {
    fail(ErrorKind::kInput, "request: \"prompt\" holds {} prompts after one state, expected 1", prompts_.size());
  }
}

void Generation::add_prompt(const Json& prompt) {
  Prompt out;
  const bool fresh = from_ == nullptr;
  if (prompt.is_string()) {
    out.text = prompt;
    if (!out.text.empty() || fresh) out.tokens = served_.model.text().encode(out.text, fresh, true);
  } else if (is_ids(prompt)) {
    for (const Json& id : prompt) {
      if (!id.is_number_integer() || id < 0 || id >= served_.model.lm->vocab_size()) {
        fail(ErrorKind::kInput, "request: \"prompt\" holds {}, expected token ids from 0 to {}", brief(id),
             served_.model.lm->vocab_size() - 1);
      }
      out.tokens.push_back(id);
    }
    if (served_.model.tokenizer) out.text = served_.model.text().decode(out.tokens, true);
  } else {
    fail(ErrorKind::kInput, "request: \"prompt\" holds {}, expected text or token ids", brief(prompt));
  }
  if (out.tokens.empty() && fresh) {
    const std::optional<int32_t> start = model::start_token(served_.model);
    if (!start) fail(ErrorKind::kInput, "request: \"prompt\" is empty, expected some text: no token begins one");
    out.tokens.push_back(*start);
  }
  if (from_) out.cached = from_->saved.state.pos();
  if (out.tokens.empty() && !from_->saved.logits.defined()) {
    fail(ErrorKind::kInput, "request: \"prompt\" is empty, expected the rest of what the state was reading");
  }
  prompts_.push_back(std::move(out));
}

generate::Request Generation::request_of(const Prompt& prompt) const {
  generate::Request request = wish_.request;
  request.prompt = prompt.tokens;
  if (from_) {
    request.state = from_->saved.state;
    request.history = from_->saved.tokens;
    request.logits = from_->saved.logits;
  }
  return request;
}

void Generation::start() {
  // Keys and salts keep their prompts apart: how long a prompt takes would tell others that it was seen.
  const std::string domain = owner_ + "/" + wish_.salt;
  call_->when_gone([self = shared_from_this()] { self->cancel(); });
  for (size_t p = 0; p < prompts_.size(); ++p) {
    prompts_[p].number = served_.engine.submit(request_of(prompts_[p]),
                                               [self = shared_from_this(), p](Event& event) { self->hear(p, event); });
    if (prompts_[p].number > 0) continue;
    cancel();
    call_->when_gone({});
    throw HttpError{429,
                    fmt::format("the queue of {} requests is full", served_.engine.figures().waiting.load()),
                    "",
                    "queue_full",
                    {{"Retry-After", "1"}}};
  }
}

void Generation::cancel() {
  over_ = true;
  for (const Prompt& prompt : prompts_) {
    if (prompt.number > 0) served_.engine.cancel(prompt.number);
  }
}

void Generation::hear(size_t prompt, Event& event) {
  if (over_) return;
  const size_t index = prompt * static_cast<size_t>(wish_.request.samples) + static_cast<size_t>(event.sample);
  Choice& choice = choices_[index];
  if (event.end && event.end->reason == generate::StopReason::kFailed) {
    HttpError error = error_answer(Error(event.broken ? ErrorKind::kDevice : ErrorKind::kInput, event.end->error));
    cancel();
    return call_->fail(error);
  }
  choice.text += event.text;
  if (event.end) {
    prompts_[prompt].hit = event.cached;
    try {
      end_choice(choice, *event.end);
    } catch (const HttpError& error) {
      cancel();
      return call_->fail(error);
    }
  } else {
    choice.tokens++;
    if (wish_.request.logprobs) choice.logged.push_back({event.id, event.logprob, std::move(event.top)});
  }
  if (wish_.stream) send(index, event.text, event.end != nullptr);
  if (ended_ == choices_.size()) finish();
}

void Generation::end_choice(Choice& choice, generate::Finished& finished) {
  choice.tokens = finished.tokens;
  choice.finish = finished.reason == generate::StopReason::kLength ? "length" : "stop";
  ended_++;
  if (!wish_.request.keep_state) return;
  model::SavedState saved{std::move(finished.state), std::move(finished.history), std::move(finished.logits)};
  const std::string id = wish_.form == Form::kResponse ? id_ : "";
  choice.state = served_.states.add(std::move(saved), from_ ? from_->id : "", owner_, id)->id;
}

void Generation::send(size_t index, const std::string& text, bool ends) {
  if (wish_.form == Form::kResponse) return send_response(text, ends);
  if (!call_->begun()) {
    call_->begin_events();
    for (size_t i = 0; i < choices_.size(); ++i) {
      if (wish_.form == Form::kChat) {
        Json chunk = head(true);
        chunk["choices"].push_back({{"index", i},
                                    {"delta", {{"role", "assistant"}, {"content", ""}}},
                                    {"logprobs", nullptr},
                                    {"finish_reason", nullptr}});
        call_->event(chunk);
      } else if (wish_.echo) {
        Json chunk = head(true);
        chunk["choices"].push_back(
            chunk_choice(i, prompts_[i / static_cast<size_t>(wish_.request.samples)].text, false));
        call_->event(chunk);
      }
    }
  }
  if (text.empty() && !ends && !wish_.request.logprobs) return;
  if (!text.empty() || (!ends && wish_.request.logprobs)) {
    Json chunk = head(true);
    chunk["choices"].push_back(chunk_choice(index, text, false));
    call_->event(chunk);
  }
  if (!ends) return;
  Json chunk = head(true);
  chunk["choices"].push_back(chunk_choice(index, "", true));
  chunk["carousel"] = extras(choices_[index]);
  call_->event(chunk);
}

void Generation::finish() {
  over_ = true;
  if (wish_.form == Form::kResponse) return finish_response();
  if (wish_.stream) {
    if (wish_.include_usage) {
      Json chunk = head(true);
      chunk["usage"] = usage();
      call_->event(chunk);
    }
    call_->event(std::string_view("[DONE]"));
    return call_->end();
  }
  if (wish_.form == Form::kState) {
    const std::shared_ptr<const KeptState> kept = served_.states.find(choices_[0].state, owner_);
    return call_->answer(Json{{"id", kept->id},
                              {"object", "state"},
                              {"parent", kept->parent.empty() ? Json() : Json(kept->parent)},
                              {"tokens", kept->saved.state.pos()},
                              {"bytes", kept->bytes},
                              {"created", kept->created},
                              {"usage", usage()}});
  }
  Json answer = head(false);
  for (size_t i = 0; i < choices_.size(); ++i) answer["choices"].push_back(whole_choice(i));
  answer["usage"] = usage();
  answer["carousel"] = {{"seed", wish_.request.seed}};
  call_->answer(answer);
}

}  // namespace carousel::serve
