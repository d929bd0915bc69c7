// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/beside.h"

#include "carousel/core/files.h"
#include "carousel/core/json.h"

namespace carousel::model {

BesideFiles read_beside(const std::string& folder) {
  constexpr size_t kMost = size_t{1} << 30;
  BesideFiles out;
  for (const char* const name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                 "chat_template.jinja", "generation_config.json"}) {
    const std::string path = folder + "/" + name;
    if (file_exists(path)) out.emplace_back(name, read_text_file(path, kMost));
  }
  return out;
}

}  // namespace carousel::model
