// SPDX-License-Identifier: Apache-2.0
// What the body of a request asks for, beside its prompt: OpenAI's fields, and llama.cpp's names for what OpenAI lacks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/generate/batcher.h"
#include "carousel/serve/call.h"
#include "carousel/serve/engine.h"

namespace carousel::serve {

enum class Form {
  kCompletion,
  kChat,
  kState,
  kResponse
};  // of the endpoint: it decides defaults and the shape of answers

struct Wish {
  Form form = Form::kCompletion;
  generate::Request request;  // all but prompt and state
  bool stream = false, include_usage = false, echo = false;
  bool wait_stored = false;    // an end is told once its state is stored
  std::string salt;            // requests with another one share no cache
  std::optional<Reuse> reuse;  // of the cache; none: as the server does
  std::string ignored;         // names of fields without effect, for x-carousel-ignored
};

struct WishLimits {
  int64_t max_tokens = 4096;
  int64_t samples = 128;
  int64_t stops = 16;
  int64_t top_logprobs = 20;
  bool has_store = false;  // states may be waited for until they are stored
};

/// Reads all fields but those of the prompt, which the caller has read from `fields` before. `body` is the object of
/// `fields`. Throws Error(kInput) that names the field, what was got and what is expected.
Wish read_wish(Form form, const Json& body, Fields& fields, const WishLimits& limits);

/// "cache_salt". Throws Error(kInput).
std::string read_salt(Fields& fields);
/// Whether "keep_state" is "stored". Throws Error(kInput) where it is, without a store, and where it is no such value.
bool waits_for_store(Fields& fields, bool has_store);
/// "cache"; none: absent. Throws Error(kInput).
std::optional<Reuse> read_reuse(Fields& fields);
/// By its name, one of kReuseNames.
Reuse reuse_of(const std::string& name);
/// The names of a body's fields that nobody has asked for, for x-carousel-ignored; empty: none.
std::string names_ignored(const Json& body, const Fields& fields);

/// The answer to an Error: 422 (kState), 500 (kIo, kDevice, kLost), else 400, with the field that it names as param.
HttpError error_answer(const Error& error);
/// The answer to a request whose sample ended with kFailed.
HttpError failure_of(const Event& event);

}  // namespace carousel::serve
