// SPDX-License-Identifier: Apache-2.0
// Chat templates: any text is compared with ChatML or refused, and says why in one line.
#include <string>

#include "carousel/text/chat_form.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const std::string source(reinterpret_cast<const char*>(bytes), size);
  for (const bool with_system : {false, true}) {
    const carousel::text::ChatForm form =
        carousel::text::compare_with_chat_ml(source, {{"bos_token", "<s>"}, {"eos_token", "<|im_end|>"}}, with_system);
    if (form.difference.empty() && source.find("<|im") == std::string::npos) __builtin_trap();
  }
  return 0;
}
