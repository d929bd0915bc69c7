// SPDX-License-Identifier: Apache-2.0
// What endpoints share.
#pragma once

#include <string>
#include <vector>

#include "carousel/serve/conversation.h"
#include "carousel/serve/engine.h"
#include "carousel/serve/metrics.h"
#include "carousel/serve/states.h"
#include "carousel/serve/wish.h"

namespace carousel::serve {

struct ServedModel {
  const model::Model& model;
  std::string name;  // of the model, in answers
  WishLimits limits;
  Conversations conversations;
  States states;
  RequestMetrics metrics;
  Engine engine;
};

constexpr size_t kMaxPrompts = 2048;  // of one request

/// Reads a body: one object of JSON. Throws Error(kInput).
Json read_body(const Call& call);
/// Throws HttpError (404) where "model" names another one.
void check_model(Fields& fields, const std::string& name);
/// Whether a prompt is given as token ids.
bool is_ids(const Json& prompt);
/// Throws Error(kInput) naming `field`: an id outside the vocabulary.
std::vector<int32_t> read_ids(const Json& prompt, const char* field, const model::Model& model);
/// Keys and salts keep their prompts apart: how long a prompt takes would tell others that it was seen.
inline std::string domain_of(const std::string& owner, const std::string& salt) { return owner + "/" + salt; }

}  // namespace carousel::serve
