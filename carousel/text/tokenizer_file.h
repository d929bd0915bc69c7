// SPDX-License-Identifier: Apache-2.0
// The contents of a tokenizer.json, checked and ready for use. Private to tokenizer.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/text/added_tokens.h"
#include "carousel/text/bpe.h"
#include "carousel/text/decoder.h"
#include "carousel/text/normalizer.h"
#include "carousel/text/pre_tokenizer.h"

namespace carousel::text {

struct TokenizerFile {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::vector<AddedToken> added;
  std::vector<int32_t> before;  // ids the post-processor puts before the text
  std::vector<int32_t> after;   // ids the post-processor puts behind the text
  std::unique_ptr<Bpe> bpe;     // the model; its vocabulary holds no added tokens
};

/// Throws Error(kInput): malformed JSON, fields of the wrong type, unsupported components by name, ids out of range or
/// given twice, merges of unknown tokens.
TokenizerFile read_tokenizer_file(std::string_view json, const std::string& where);

}  // namespace carousel::text
