// SPDX-License-Identifier: Apache-2.0
// What endpoints share.
#pragma once

#include <string>

#include "carousel/serve/conversation.h"
#include "carousel/serve/engine.h"
#include "carousel/serve/states.h"
#include "carousel/serve/wish.h"

namespace carousel::serve {

struct ServedModel {
  const model::Model& model;
  std::string name;  // of the model, in answers
  WishLimits limits;
  Conversations conversations;
  States states;
  Engine engine;
};

/// Reads a body: one object of JSON. Throws Error(kInput).
Json read_body(const Call& call);

}  // namespace carousel::serve
