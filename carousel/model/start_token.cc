// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/start_token.h"

namespace carousel::model {

std::optional<int32_t> start_token(const Model& model) {
  const text::Tokenizer& tokenizer = model.text();
  const Json& source = model.config.source;
  const auto bos = source.is_object() ? source.find("bos_token_id") : source.end();
  if (source.is_object() && bos != source.end() && bos->is_number_integer() &&
      tokenizer.is_special(bos->get<int64_t>())) {
    return bos->get<int32_t>();
  }
  for (const char* text : {"<|startoftext|>", "<|begin_of_text|>", "<s>", "<|endoftext|>"}) {
    const std::optional<int32_t> id = tokenizer.id_of(text);
    if (id && tokenizer.is_special(*id)) return *id;
  }
  return std::nullopt;
}

}  // namespace carousel::model
