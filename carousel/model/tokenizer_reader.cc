// SPDX-License-Identifier: Apache-2.0
// The tokenizer's thread.
#include "carousel/model/tokenizer_reader.h"

#include <utility>

namespace carousel::model {

TokenizerReader::TokenizerReader(const ModelPath& place, const formats::GgufMetadata* gguf)
    : thread_([this, &place, gguf] {
        try {
          tokenizer_ = open_tokenizer(place, gguf);
        } catch (...) {
          error_ = std::current_exception();
        }
      }) {}

std::optional<text::Tokenizer> TokenizerReader::take() {
  thread_.join();
  if (error_) std::rethrow_exception(error_);
  return std::move(tokenizer_);
}

}  // namespace carousel::model
