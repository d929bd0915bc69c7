// SPDX-License-Identifier: Apache-2.0
// A model's tokenizer, read on a thread of its own while others pack the weights: it keeps one core busy for about as
// long as a gigabyte of weights keeps two.
#pragma once

#include <exception>
#include <optional>

#include "carousel/core/thread.h"
#include "carousel/model/load.h"

namespace carousel::model {

/// Reads the tokenizer on a thread of its own while others pack weights. The destructor waits for it.
class TokenizerReader {
 public:
  /// Starts open_tokenizer. `place` and `gguf` must outlive the reader.
  TokenizerReader(const ModelPath& place, const formats::GgufMetadata* gguf);
  /// Waits for the tokenizer; to be called once. Throws what open_tokenizer threw.
  std::optional<text::Tokenizer> take();

 private:
  std::optional<text::Tokenizer> tokenizer_;
  std::exception_ptr error_;
  Thread thread_;  // the last member, since it writes the others
};

}  // namespace carousel::model
