// SPDX-License-Identifier: Apache-2.0
// tokenizer.json from arbitrary bytes, then text through it: the input up to its first newline is the file, the rest
// the text. Without a newline the file is also the text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/text/chat_ml.h"
#include "carousel/text/tokenizer.h"

namespace {

/// Whatever the text: of a system's, a user's and the answer's turn, no more are begun.
void check_turns(const carousel::text::Tokenizer& tokenizer, std::string_view text) {
  const auto turns = carousel::text::ChatMl::find(tokenizer);
  if (!turns) return;
  const std::vector<int32_t> ids = turns->ask({}, {}, text, text);
  const int32_t start = *tokenizer.id_of("<|im_start|>");
  if (std::count(ids.begin(), ids.end(), start) != (text.empty() ? 2 : 3)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using carousel::text::StreamDecoder;
  using carousel::text::Tokenizer;
  const std::string_view input(reinterpret_cast<const char*>(bytes), size);
  const size_t cut = input.find('\n');
  const std::string_view json = input.substr(0, cut);
  const std::string_view text = cut == std::string_view::npos ? input : input.substr(cut + 1);
  try {
    const Tokenizer tokenizer = Tokenizer::from_json(json, "fuzz");
    for (const bool parse_special : {true, false}) {
      const std::vector<int32_t> ids = tokenizer.encode(text, true, parse_special);
      StreamDecoder stream(tokenizer, !parse_special);
      std::string streamed;
      for (const int32_t id : ids) {
        if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
        streamed += stream.push(id);
      }
      streamed += stream.flush();
      if (streamed != tokenizer.decode(ids, !parse_special)) std::abort();
    }
    check_turns(tokenizer, text);
  } catch (const carousel::Error&) {
  }
  return 0;
}
