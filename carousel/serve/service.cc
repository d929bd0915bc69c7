// SPDX-License-Identifier: Apache-2.0
// The table of endpoints, and those that answer at once. States are in state_endpoints.cc, texts in generation.cc.
#include "carousel/serve/service.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <exception>
#include <set>

#include "carousel/core/error.h"
#include "carousel/serve/generation.h"

namespace carousel::serve {

struct Service::Route {
  const char* method;
  const char* path;  // one that ends in a slash takes what follows
  void (Service::*run)(const std::shared_ptr<Call>&, const std::string&);
  bool open = false;  // needs no key
};

const Service::Route Service::kRoutes[] = {
    {"POST", "/v1/completions", &Service::completions},
    {"POST", "/v1/chat/completions", &Service::chat},
    {"POST", "/v1/responses", &Service::responses},
    {"GET", "/v1/responses/", &Service::response},
    {"DELETE", "/v1/responses/", &Service::remove_response},
    {"POST", "/v1/states", &Service::read_state},
    {"PUT", "/v1/states", &Service::upload_state},
    {"GET", "/v1/states", &Service::states},
    {"GET", "/v1/states/", &Service::state},
    {"DELETE", "/v1/states/", &Service::remove_state},
    {"POST", "/v1/embeddings", &Service::embeddings},
    {"GET", "/v1/models", &Service::models},
    {"GET", "/v1/models/", &Service::model_card},
    {"POST", "/tokenize", &Service::tokenize},
    {"POST", "/detokenize", &Service::detokenize},
    {"GET", "/props", &Service::props},
    {"GET", "/metrics", &Service::metrics},
    {"GET", "/health", &Service::health, true},
    {"GET", "/live", &Service::live, true},
};

namespace {

/// Takes as long for a wrong key as for the right one.
bool same(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b.empty() ? 0 : b[i % b.size()]);
  }
  return difference == 0;
}

/// "localhost" of "localhost:8080" and of "[::1]:8080" "[::1]".
std::string host_name(const std::string& host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

WishLimits limits_of(const ServiceOptions& options) {
  WishLimits limits = options.limits;
  limits.has_store = !options.store.none();
  return limits;
}

std::unique_ptr<Store> open_store(const ServiceOptions& options, const model::Model& model, const Engine::Post& post) {
  const StoreOptions& store = options.store;
  if (store.none()) return nullptr;
  std::unique_ptr<Shelf> shelf =
      store.redis.host.empty() ? open_folder(store.folder, model) : open_redis(store.redis, model, options.scratch);
  return std::make_unique<Store>(std::move(shelf), store, model, post);
}

/// The caller is told this of whatever was thrown.
HttpError answer_to(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const HttpError& error) {
    return error;
  } catch (const Error& error) {
    return error_answer(error);
  } catch (const std::exception& error) {
    return {500, error.what(), "", "", {}};
  }
}

}  // namespace

Service::Service(const model::Model& model, const Stream& stream, const ServiceOptions& options, Engine::Post post)
    : options_(options),
      served_{model,
              options.name,
              limits_of(options),
              Conversations(options.path, model, options.chat_template),
              States(options.state_bytes, open_store(options, model, post)),
              RequestMetrics(),
              Engine(model, stream, options.engine, post)},
      post_(std::move(post)) {}

/// Runs `work` on the thread of files, and what it returns on this one. The io thread never waits for a file.
void Service::beside(const std::shared_ptr<Call>& call, std::function<Then()> work) {
  // The work moves on with its result, so this thread lets go of the call and the state that it holds.
  const auto task = std::make_shared<std::function<Then()>>(std::move(work));
  files_.add([this, call = std::make_shared<std::shared_ptr<Call>>(call), task] {
    Then then;
    std::exception_ptr thrown;
    try {
      then = (*task)();
    } catch (...) {
      thrown = std::current_exception();
    }
    post_([call = std::move(*call), work = std::move(*task), then = std::move(then), thrown] {
      if (call->ended()) return;
      try {
        if (thrown) std::rethrow_exception(thrown);
        then();
      } catch (...) {
        call->fail(answer_to(std::current_exception()));
      }
    });
  });
}

void Service::handle(const std::shared_ptr<Call>& call) {
  call->when_left([this, &call = *call] { (call.status() < 400 ? answered_ : refused_)++; });
  handle(call, std::make_shared<StoreAnswers>(), 0);
}

/// A call that needs the store waits for what it says and begins again: until then it changes nothing.
void Service::handle(const std::shared_ptr<Call>& call, const std::shared_ptr<StoreAnswers>& answers, int asked) {
  constexpr int kMostAsked = 1000;  // states that leave memory as fast as they come
  served_.states.use(answers);
  try {
    return route(call);
  } catch (const Elsewhere& wanted) {
    if (asked < kMostAsked) {
      return served_.states.ask(wanted, answers, [this, call, answers, asked](const HttpError& error) {
        if (call->ended()) return;
        if (error.status == 0) return handle(call, answers, asked + 1);
        call->fail(error);
      });
    }
    call->fail({503, "state: it does not stay in memory, expected more of --state-bytes", "state", "", {}});
  } catch (...) {
    call->fail(answer_to(std::current_exception()));
  }
}

void Service::route(const std::shared_ptr<Call>& call) {
  const HttpRequest& request = call->request();
  check_host(request);
  if (request.method == "OPTIONS") return call->answer(204, "");
  const Route& route = route_of(request);
  (this->*route.run)(call, request.path.substr(std::string_view(route.path).size()));
}

void Service::screen(const HttpRequest& head) {
  try {
    check_host(head);
    if (head.method != "OPTIONS") route_of(head);
  } catch (const HttpError&) {
    refused_++;
    throw;
  }
}

/// The endpoint that a request is for, whose key was checked where that is needed.
const Service::Route& Service::route_of(const HttpRequest& request) const {
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  std::set<std::string> methods;  // that the path has
  for (const Route& route : kRoutes) {
    const std::string path = route.path;
    const bool takes_rest = path.back() == '/';
    const bool fits =
        takes_rest ? request.path.starts_with(path) && request.path.size() > path.size() : request.path == path;
    if (!fits) continue;
    methods.insert(route.method);
    if (method != route.method) continue;
    if (!route.open) owner_of(request);  // throws 401
    return route;
  }
  if (methods.empty()) throw HttpError{404, fmt::format("{}: no such path", request.path), "", "", {}};
  std::string allowed;
  for (const std::string& name : methods) allowed += (allowed.empty() ? "" : ", ") + name;
  throw HttpError{
      405, fmt::format("{}: got {}, expected {}", request.path, request.method, allowed), "", "", {{"Allow", allowed}}};
}

/// A page of another site may address this server by a name of its own; nothing is answered to it.
void Service::check_host(const HttpRequest& request) const {
  if (options_.hosts.empty()) return;
  const std::string name = host_name(request.header("host"));
  const auto& hosts = options_.hosts;
  if (std::find(hosts.begin(), hosts.end(), name) != hosts.end()) return;
  throw HttpError{403, fmt::format("Host: got \"{}\", expected {}", name, fmt::join(hosts, ", ")), "", "", {}};
}

/// A hash of the key that a request has, for a store outlives the order of keys; "" where none is needed.
std::string Service::owner_of(const HttpRequest& request) const {
  if (options_.keys.empty()) return "";
  const std::string bearer = "Bearer ", authorization = request.header("authorization");
  const std::string key =
      authorization.starts_with(bearer) ? authorization.substr(bearer.size()) : request.header("x-api-key");
  std::string owner;
  for (size_t i = 0; i < options_.keys.size(); ++i) {
    if (same(options_.keys[i], key)) {
      const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
      owner = fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
    }
  }
  if (owner.empty()) {
    throw HttpError{401,
                    "the API key is wrong or missing, expected \"Authorization: Bearer KEY\" or \"x-api-key: KEY\"",
                    "",
                    "invalid_api_key",
                    {{"WWW-Authenticate", "Bearer"}}};
  }
  return owner;
}

void Service::check_open() const {
  if (draining_) throw HttpError{503, "the server is shutting down", "", "", {{"Retry-After", "5"}}};
}

void Service::generate(const std::shared_ptr<Call>& call, Form form) {
  check_open();
  std::make_shared<Generation>(served_, call, form, owner_of(*call))->start();
}

void Service::completions(const std::shared_ptr<Call>& call, const std::string&) { generate(call, Form::kCompletion); }
void Service::chat(const std::shared_ptr<Call>& call, const std::string&) { generate(call, Form::kChat); }

Json Service::card() const {
  return {{"id", options_.name}, {"object", "model"}, {"created", started_}, {"owned_by", "carousel"}};
}

void Service::models(const std::shared_ptr<Call>& call, const std::string&) {
  call->answer(Json{{"object", "list"}, {"data", Json::array({card()})}});
}

void Service::model_card(const std::shared_ptr<Call>& call, const std::string& rest) {
  if (rest == options_.name) return call->answer(card());
  throw HttpError{
      404, fmt::format("model: got \"{}\", expected \"{}\"", rest, options_.name), "model", "model_not_found", {}};
}

void Service::health(const std::shared_ptr<Call>& call, const std::string&) {
  if (draining_) throw HttpError{503, "the server is shutting down", "", "", {}};
  call->answer(Json{{"status", "ok"}});
}

void Service::live(const std::shared_ptr<Call>& call, const std::string&) { call->answer(Json{{"status", "ok"}}); }

void Service::props(const std::shared_ptr<Call>& call, const std::string&) {
  const model::Model& model = served_.model;
  call->answer(Json{{"model", options_.name},
                    {"fingerprint", model.fingerprint},
                    {"vocab_size", model.lm->vocab_size()},
                    {"max_tokens", options_.limits.max_tokens},
                    {"parallel", options_.engine.parallel},
                    {"queue", options_.engine.queue},
                    {"tick_ms", options_.engine.tick_ms},
                    {"cache", kReuseNames[static_cast<size_t>(options_.engine.reuse)]},
                    {"state_bytes", options_.state_bytes},
                    {"store", !options_.store.none()}});
}

/// llama.cpp's: {"content", "add_special"} -> {"tokens": [...]}.
void Service::tokenize(const std::shared_ptr<Call>& call, const std::string&) {
  Fields fields(read_body(*call), "request");
  const std::string text = fields.string("content");
  const bool add_special = fields.boolean("add_special", false);
  const bool parse_special = fields.boolean("parse_special", true);
  call->answer(Json{{"tokens", served_.model.text().encode(text, add_special, parse_special)}});
}

void Service::detokenize(const std::shared_ptr<Call>& call, const std::string&) {
  Fields fields(read_body(*call), "request");
  std::vector<int32_t> ids;
  for (const int64_t id : fields.integers("tokens", 0, served_.model.text().vocab_size() - 1, size_t{1} << 24)) {
    ids.push_back(static_cast<int32_t>(id));
  }
  call->answer(Json{{"content", served_.model.text().decode(ids)}});
}

}  // namespace carousel::serve
