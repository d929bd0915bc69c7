// SPDX-License-Identifier: Apache-2.0
// What readers of data must know of the model: how text becomes ids, which ids begin and end a document, which turns a
// conversation has.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "carousel/model/chat_turns.h"
#include "carousel/model/load.h"
#include "carousel/text/tokenizer.h"

namespace carousel::train {

struct Vocabulary {
  int64_t size = 0;                          // ids are below it
  std::optional<text::Tokenizer> tokenizer;  // absent: only ids can be read
  std::string missing;                       // without a tokenizer: the message for a file of text
  bool bytes = false;                        // the tokenizer takes any bytes
  std::optional<int32_t> start;              // put before a document unless the tokenizer puts a token there itself
  std::optional<int32_t> end;                // put behind a document
  std::string name;                          // the tokenizer, for messages: "byte-level BPE of 4096 ids (8c1f09a2)"
  uint64_t hash = 0;                         // of all that decides how text becomes ids
  /// The turns of conversations that begin with a system message, or do not. Throws Error(kInput) where the model has
  /// none.
  std::function<model::ChatTurns(bool with_system)> turns;
};

/// The vocabulary of the model at `path`; `model` must outlive it. A model without a tokenizer works on bytes if its
/// vocabulary holds 256 ids.
Vocabulary vocabulary_of(const std::string& path, const model::Model& model);

}  // namespace carousel::train
