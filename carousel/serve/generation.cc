// SPDX-License-Identifier: Apache-2.0
// From a body to requests of the engine, and from its events to OpenAI's answers.
#include "carousel/serve/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <iterator>

#include "carousel/core/error.h"
#include "carousel/model/start_token.h"
#include "carousel/serve/service.h"
#include "carousel/text/unicode.h"

namespace carousel::serve {

bool is_ids(const Json& prompt) { return prompt.is_array() && !prompt.empty() && prompt[0].is_number(); }

std::vector<int32_t> read_ids(const Json& prompt, const char* field, const model::Model& model) {
  std::vector<int32_t> out;
  const int64_t vocab = model.lm->vocab_size();
  for (const Json& id : prompt) {
    if (!id.is_number_integer() || id < 0 || id >= vocab) {
      fail(ErrorKind::kInput, "request: \"{}\" holds {}, expected token ids from 0 to {}", field, brief(id), vocab - 1);
    }
    out.push_back(id);
  }
  return out;
}

void check_model(Fields& fields, const std::string& name) {
  const std::string wanted = fields.string("model", name);
  if (wanted == name) return;
  throw HttpError{404, fmt::format("model: got \"{}\", expected \"{}\"", wanted, name), "model", "model_not_found", {}};
}

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
  check_model(fields, served_.name);
  const std::string state = fields.string("state", "");
  if (!state.empty()) from_ = served_.states.find(state, owner_);
  read_prompts(fields);
  fields.ignore({"user", "metadata"});
  const bool stores = fields.boolean("store", true);
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
    wish_.request.keep_state = stores;
    wish_.wait_stored = wish_.wait_stored && wish_.request.keep_state;
  }
  if (form != Form::kCompletion && !served_.conversations.stop().empty()) {
    wish_.request.stop.push_back(served_.conversations.stop());
  }
  if (!wish_.ignored.empty()) call_->header("x-carousel-ignored", wish_.ignored);
  choices_.assign(prompts_.size() * static_cast<size_t>(wish_.request.samples),
                  Choice(std::chrono::steady_clock::now()));
}

/// messages, or a prompt: text, ids, or a list of either.
void Generation::read_prompts(Fields& fields) {
  const Json* const messages = wish_.form == Form::kCompletion ? nullptr : fields.raw("messages");
  if (messages != nullptr) {
    const std::span<const int32_t> seen =
        from_ ? std::span<const int32_t>(from_->saved.tokens) : std::span<const int32_t>();
    Prompt prompt;
    prompt.tokens = served_.conversations.tokens(*messages, seen);
    prompt.cached = static_cast<int64_t>(seen.size());
    prompts_.push_back(std::move(prompt));
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
    out.tokens = read_ids(prompt, "prompt", served_.model);
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

/// Hands the prompts that may go now to the engine. Throws HttpError.
void Generation::send_prompts() {
  submissions_.send([this](size_t p) {
    const auto hear = [self = shared_from_this(), p](Event& event) { self->hear(p, event); };
    prompts_[p].number =
        served_.engine.submit(request_of(prompts_[p]), hear, domain_of(owner_, wish_.salt), wish_.reuse);
    prompts_[p].running = wish_.request.samples;
  });
}

void Generation::start() {
  submissions_ = Submissions(prompts_.size());
  call_->when_gone([self = shared_from_this()] { self->cancel(RequestMetrics::kAbort); });
  try {
    send_prompts();
  } catch (const HttpError&) {
    withdraw();
    call_->when_gone({});
    throw;
  }
}

/// Ends what has not ended; reason: why.
void Generation::cancel(RequestMetrics::Reason reason) {
  if (over_) return;
  for (const Choice& choice : choices_) {
    if (!choice.counted) served_.metrics.broken(reason);
  }
  withdraw();
}

void Generation::withdraw() {
  over_ = true;
  for (const Prompt& prompt : prompts_) {
    if (prompt.number > 0) served_.engine.cancel(prompt.number);
  }
}

void Generation::hear(size_t prompt, Event& event) {
  if (over_) return;
  if (!event.prompt.empty()) {
    std::vector<LoggedToken>& logged = prompts_[prompt].logged;
    std::move(event.prompt.begin(), event.prompt.end(), std::back_inserter(logged));
    return;
  }
  const size_t index = prompt * static_cast<size_t>(wish_.request.samples) + static_cast<size_t>(event.sample);
  Choice& choice = choices_[index];
  if (event.end && event.end->reason == generate::StopReason::kFailed) {
    const HttpError error = failure_of(event);
    cancel(RequestMetrics::kError);
    return call_->fail(error);
  }
  if (!choice.begun) begin_choice(index);
  choice.text += event.text;
  if (event.end) {
    prompts_[prompt].hit = event.cached;
    prompts_[prompt].missed = event.missed;
    try {
      end_choice(choice, *event.end);
      count_choice(index, event.at);
      end_sample(prompts_[prompt]);
    } catch (const HttpError& error) {
      cancel(RequestMetrics::kError);
      return call_->fail(error);
    }
  } else {
    choice.tokens++;
    choice.ids.push_back(event.id);
    served_.metrics.token(choice.clock, event.at);
    if (wish_.request.logprobs) choice.logged.push_back({event.id, event.logprob, std::move(event.top)});
  }
  // The state of a response is stored with its answer, by finish_response().
  if (event.end && wish_.wait_stored && wish_.form != Form::kResponse) return wait_stored(index, event.text);
  tell(index, event.text, event.end != nullptr);
}

/// The engine has ended a sample of a prompt. Throws HttpError.
void Generation::end_sample(Prompt& prompt) {
  if (--prompt.running > 0) return;
  submissions_.end();
  send_prompts();
}

void Generation::tell(size_t index, const std::string& text, bool ends) {
  if (wish_.stream) send(index, text, ends);
  if (!ends || ++ended_ < choices_.size()) return;
  finish();
}

/// Tells the end of a choice once its state is on the disk.
void Generation::wait_stored(size_t index, const std::string& text) {
  served_.states.when_stored(choices_[index].state, [self = shared_from_this(), index, text](const HttpError& error) {
    if (self->over_) return;
    if (error.status == 0) return self->tell(index, text, true);
    self->cancel(RequestMetrics::kError);
    self->call_->fail(error);
  });
}

void Generation::count_choice(size_t index, ChoiceClock::Time at) {
  Choice& choice = choices_[index];
  const Prompt& prompt = prompt_of(index);
  choice.counted = true;
  served_.metrics.end(choice.clock, at, prompt.cached + static_cast<int64_t>(prompt.tokens.size()),
                      choice.finish == "length" ? RequestMetrics::kLength : RequestMetrics::kStop);
}

/// The first event of a choice: the prompt has been read, so what is echoed of it is there.
void Generation::begin_choice(size_t index) {
  Choice& choice = choices_[index];
  choice.begun = true;
  const Prompt& prompt = prompt_of(index);
  if (wish_.request.prompt_logprobs) {
    choice.logged = prompt.logged;
    if (prompt.logged.size() < prompt.tokens.size()) {
      choice.logged.insert(choice.logged.begin(), {prompt.tokens[0], {}, {}});
    }
  }
  if (!wish_.stream || wish_.form == Form::kResponse) return;
  if (!call_->begun()) begin_chunks();
  if (!wish_.echo) return;
  Json chunk = head(true);
  chunk["choices"].push_back(chunk_choice(index, prompt.text, false));
  call_->event(chunk);
}

/// The first chunks of a chat say whose turn it is.
void Generation::begin_chunks() {
  call_->begin_events();
  if (wish_.form != Form::kChat) return;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Json chunk = head(true);
    chunk["choices"].push_back({{"index", i},
                                {"delta", {{"role", "assistant"}, {"content", ""}}},
                                {"logprobs", nullptr},
                                {"finish_reason", nullptr}});
    call_->event(chunk);
  }
}

void Generation::end_choice(Choice& choice, generate::Finished& finished) {
  choice.tokens = finished.tokens;
  choice.finish = finished.reason == generate::StopReason::kLength ? "length" : "stop";
  if (!wish_.request.keep_state) return;
  model::SavedState saved{std::move(finished.state), std::move(finished.history), std::move(finished.logits)};
  const std::string parent = from_ ? from_->id : "";
  States& states = served_.states;
  choice.kept = wish_.form == Form::kResponse ? states.add(std::move(saved), parent, owner_, id_)
                                              : states.add(std::move(saved), parent, owner_);
  choice.state = choice.kept->id;
}

void Generation::send(size_t index, const std::string& text, bool ends) {
  if (wish_.form == Form::kResponse) return send_response(text, ends);
  if (text.empty() && !ends && !wish_.request.logprobs) return;
  if (!text.empty() || (!ends && wish_.request.logprobs)) {
    Json chunk = head(true);
    chunk["choices"].push_back(chunk_choice(index, text, false));
    call_->event(chunk);
  }
  if (!ends) return;
  Json chunk = head(true);
  chunk["choices"].push_back(chunk_choice(index, "", true));
  chunk["carousel"] = extras(index);
  call_->event(chunk);
}

/// Where the next turn will probably begin with this answer, the engine reads that beginning in idle time. A chat gives
/// answers back as text, whose tokens need not be those that were sampled.
void Generation::offer_reread() const {
  const bool goes_on_by_id = wish_.form == Form::kResponse && wish_.request.keep_state;
  if (from_ || wish_.form == Form::kState || goes_on_by_id) return;
  for (size_t i = 0; i < choices_.size(); ++i) {
    std::vector<int32_t> tokens = prompts_[i / static_cast<size_t>(wish_.request.samples)].tokens;
    try {
      const Choice& choice = choices_[i];
      const std::vector<int32_t> more =
          wish_.form == Form::kCompletion ? choice.ids : served_.conversations.answer(choice.text);
      tokens.insert(tokens.end(), more.begin(), more.end());
    } catch (const Error&) {  // a template that cannot hold this text
      continue;
    }
    served_.engine.read_again(std::move(tokens), domain_of(owner_, wish_.salt), wish_.reuse);
  }
}

void Generation::finish() {
  over_ = true;
  offer_reread();
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
    Json card = json_of(*choices_[0].kept);
    card["usage"] = usage();
    return call_->answer(card);
  }
  Json answer = head(false);
  for (size_t i = 0; i < choices_.size(); ++i) answer["choices"].push_back(whole_choice(i));
  answer["usage"] = usage();
  answer["carousel"] = {{"seed", wish_.request.seed}, {"cache", cache(prompts_)}};
  call_->answer(answer);
}

}  // namespace carousel::serve
