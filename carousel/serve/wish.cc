// SPDX-License-Identifier: Apache-2.0
// The fields of a body, with defaults of `carousel generate`.
#include "carousel/serve/wish.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace carousel::serve {
namespace {

constexpr const char* kSeed = "seed";
constexpr size_t kMaxSalt = 256;

// What this server cannot do. A value that asks for nothing (null, false, [], the default) passes.
struct Refused {
  const char* name;
  Json harmless;
};
const Refused kRefused[] = {{"suffix", ""},
                            {"tools", Json::array()},
                            {"functions", Json::array()},
                            {"tool_choice", "none"},
                            {"function_call", "none"},
                            {"response_format", {{"type", "text"}}},
                            {"audio", nullptr},
                            {"modalities", {"text"}},
                            {"prediction", nullptr},
                            {"grammar", ""},
                            {"json_schema", nullptr},
                            {"best_of", 1},
                            {"image_data", Json::array()},
                            {"web_search_options", nullptr}};

void refuse_unknown_tasks(Fields& fields) {
  for (const auto& [name, harmless] : kRefused) {
    const Json* const value = fields.raw(name);
    if (value == nullptr || *value == harmless) continue;
    if (std::string(name) == "tool_choice" && *value == "auto") continue;
    if (std::string(name) == "best_of" && fields.raw("n") != nullptr && *value == *fields.raw("n")) continue;
    fail(ErrorKind::kInput, "request: \"{}\" is {}, expected none: this server cannot do that", name, brief(*value));
  }
}

std::vector<std::string> read_stops(Fields& fields, int64_t most) {
  const Json* const stop = fields.raw("stop");
  std::vector<std::string> stops;
  if (stop != nullptr && stop->is_string()) {
    stops.push_back(*stop);
  } else if (stop != nullptr) {
    stops = fields.strings("stop", static_cast<size_t>(most));
  }
  for (const std::string& text : stops) {
    if (text.empty()) fail(ErrorKind::kInput, "request: \"stop\" holds \"\", expected some text to stop before");
  }
  return stops;
}

/// {"ID": bias}; a bias of -100 bans the token, as OpenAI's does.
std::vector<std::pair<int32_t, double>> read_bias(Fields& fields) {
  constexpr double kBan = -100;
  std::vector<std::pair<int32_t, double>> out;
  const Json biases = fields.object("logit_bias");
  for (const auto& [key, value] : biases.items()) {
    const bool digits = !key.empty() && key.size() <= 9 && key.find_first_not_of("0123456789") == key.npos;
    if (!digits || !value.is_number() || std::fabs(value.get<double>()) > 100) {
      fail(ErrorKind::kInput,
           "request: \"logit_bias\" holds \"{}\": {}, expected a token id and a number from -100 to 100", key,
           brief(value));
    }
    const double bias = value.get<double>();
    out.emplace_back(static_cast<int32_t>(std::stol(key)),
                     bias <= kBan ? -std::numeric_limits<double>::infinity() : bias);
  }
  return out;
}

generate::SamplerParams read_sampler(Fields& fields) {
  constexpr double kMost = generate::SamplerParams::kMost, kAny = std::numeric_limits<double>::max();
  constexpr int64_t kMaxCount = int64_t{1} << 40;
  generate::SamplerParams out;
  out.temp = fields.number("temperature", 0, kAny, out.temp);
  out.top_k = fields.integer("top_k", -1, kMaxCount, out.top_k);
  out.top_p = fields.number("top_p", 0, 1, out.top_p);
  out.min_p = fields.number("min_p", 0, 1, out.min_p);
  out.typical = fields.number("typical_p", 0, 1, out.typical);
  out.repeat_penalty = fields.number("repeat_penalty", 1e-6, kMost, out.repeat_penalty);
  out.repeat_penalty = fields.number("repetition_penalty", 1e-6, kMost, out.repeat_penalty);
  out.presence_penalty = fields.number("presence_penalty", -kMost, kMost, out.presence_penalty);
  out.frequency_penalty = fields.number("frequency_penalty", -kMost, kMost, out.frequency_penalty);
  out.repeat_last_n = fields.integer("repeat_last_n", -1, int64_t{1} << 30, out.repeat_last_n);
  out.ignore_eos = fields.boolean("ignore_eos", out.ignore_eos);
  out.logit_bias = read_bias(fields);
  return out;
}

/// A seed of the request, or one that is drawn: below 2^53, so that every JSON reader gives it back as it is.
uint64_t read_seed(Fields& fields) {
  const int64_t given = fields.integer(kSeed, -1, std::numeric_limits<int64_t>::max(), -1);
  if (given >= 0) return static_cast<uint64_t>(given);
  std::random_device device;
  return (uint64_t{device()} << 21) ^ device();
}

int64_t read_max_tokens(Form form, Fields& fields, int64_t most) {
  constexpr int64_t kCompletion = 16;  // OpenAI's default
  const int64_t fallback = form == Form::kCompletion ? std::min(kCompletion, most) : most;
  if (form == Form::kResponse) return fields.integer("max_output_tokens", 1, most, fallback);
  const int64_t count = fields.integer("max_tokens", 0, most, fallback);
  return fields.integer("max_completion_tokens", 0, most, count);
}

void read_logprobs(Form form, Fields& fields, int64_t most, generate::Request& request) {
  if (form == Form::kCompletion) {
    const int64_t count = fields.integer("logprobs", 0, most, -1);
    request.logprobs = count >= 0;
    request.top_logprobs = std::max<int64_t>(count, 0);
    return;
  }
  request.logprobs = fields.boolean("logprobs", false);
  request.top_logprobs = fields.integer("top_logprobs", 0, most, 0);
  if (request.top_logprobs > 0 && !request.logprobs) {
    fail(ErrorKind::kInput, "request: \"top_logprobs\" is {} without \"logprobs\", expected both",
         request.top_logprobs);
  }
}

}  // namespace

std::string read_salt(Fields& fields) {
  std::string salt = fields.string("cache_salt", "");
  if (salt.size() > kMaxSalt) {
    fail(ErrorKind::kInput, "request: \"cache_salt\" has {} bytes, expected at most {}", salt.size(), kMaxSalt);
  }
  return salt;
}

Reuse reuse_of(const std::string& name) {
  const auto* const found = std::find(std::begin(kReuseNames), std::end(kReuseNames), name);
  return static_cast<Reuse>(found - std::begin(kReuseNames));
}

bool waits_for_store(Fields& fields, bool has_store) {
  const Json* const keep = fields.raw("keep_state");
  const bool waits = keep != nullptr && *keep == "stored";
  if (!waits) fields.boolean("keep_state", false);
  if (waits && !has_store) {
    fail(ErrorKind::kInput,
         "request: \"keep_state\" is \"stored\", expected true or false: this server has no --store");
  }
  return waits;
}

std::optional<Reuse> read_reuse(Fields& fields) {
  if (fields.raw("cache") == nullptr) return {};
  return reuse_of(fields.choice("cache", {std::begin(kReuseNames), std::end(kReuseNames)}, {}));
}

std::string names_ignored(const Json& body, const Fields& fields) {
  std::string names;
  for (const auto& [name, value] : body.items()) {
    if (fields.knows(name)) continue;
    const bool plain = name.size() <= 64 &&
                       std::all_of(name.begin(), name.end(), [](char c) { return c > 32 && c < 127 && c != ','; });
    names += (names.empty() ? "" : ", ") + (plain ? name : std::string("?"));
  }
  return names;
}

Wish read_wish(Form form, const Json& body, Fields& fields, const WishLimits& limits) {
  Wish wish;
  wish.form = form;
  refuse_unknown_tasks(fields);
  wish.request.sampler = read_sampler(fields);
  wish.request.seed = read_seed(fields);
  wish.request.max_tokens = read_max_tokens(form, fields, limits.max_tokens);
  wish.request.samples = fields.integer("n", 1, limits.samples, 1);
  wish.request.stop = read_stops(fields, limits.stops);
  read_logprobs(form, fields, limits.top_logprobs, wish.request);
  wish.wait_stored = waits_for_store(fields, limits.has_store);
  wish.request.keep_state = wish.wait_stored || fields.boolean("keep_state", false);
  wish.stream = fields.boolean("stream", false);
  Fields stream_options(fields.object("stream_options"), "request: stream_options");
  wish.include_usage = stream_options.boolean("include_usage", false);
  wish.echo = form == Form::kCompletion && fields.boolean("echo", false);
  wish.request.prompt_logprobs = wish.echo && wish.request.logprobs;
  wish.salt = read_salt(fields);
  wish.reuse = read_reuse(fields);
  wish.ignored = names_ignored(body, fields);
  return wish;
}

HttpError error_answer(const Error& error) {
  HttpError out;
  out.message = error.what();
  const size_t begin = out.message.find("request: \"");
  if (begin != out.message.npos) {
    const size_t name = begin + 10;
    out.param = out.message.substr(name, out.message.find('"', name) - name);
  }
  if (error.kind() == ErrorKind::kState) out.status = 422;
  if (error.kind() == ErrorKind::kIo || error.kind() == ErrorKind::kDevice || error.kind() == ErrorKind::kLost) {
    out.status = 500;
  }
  return out;
}

HttpError failure_of(const Event& event) {
  return error_answer(Error(event.broken ? ErrorKind::kDevice : ErrorKind::kInput, event.end->error));
}

}  // namespace carousel::serve
