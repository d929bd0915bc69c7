// SPDX-License-Identifier: Apache-2.0
// What the text of a file must say and must not.
#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>

#include "tests/layering/rules.h"

namespace carousel::layering {
namespace {

/// A breach for every line of code that a pattern is found in, outside `allowed_folder`. The subject is the pattern's
/// last group.
void find_code(const Sources& sources, const std::string& pattern, const std::string& why,
               const std::string& allowed_folder, Breaches* breaches) {
  const std::regex regex(pattern);
  for (const Source& source : sources) {
    if (source.folder == allowed_folder) continue;
    for (size_t i = 0; i < source.code.size(); ++i) {
      std::smatch match;
      if (!std::regex_search(source.code[i], match, regex)) continue;
      breaches->push_back({source.path, i + 1, match[match.size() - 1], why});
    }
  }
}

const std::string kCall = "(?:^|[^\\w.>])(?:std::|::)?";

bool is_comment(const Source& source, size_t line) {
  return line < source.lines.size() && starts_with(source.lines[line], "// ") && source.lines[line].size() > 12;
}

bool is_header(const Source& source) { return ends_with(source.path, ".h") || ends_with(source.path, ".cuh"); }

bool is_in(const Source& source, const std::string& folder) { return starts_with(source.path, folder); }

}  // namespace

Breaches only_the_command_line_talks_to_the_process(const Sources& sources) {
  Breaches breaches;
  find_code(sources, kCall + "(getenv|secure_getenv|setenv|exit|_exit|quick_exit|system)\\s*\\(",
            "environment and exit belong to cli/", "cli", &breaches);
  find_code(sources, kCall + "(printf|fprintf|puts|fputs|putchar|vprintf|perror)\\s*\\(", "printing belongs to cli/",
            "cli", &breaches);
  find_code(sources, "(fmt::print)", "printing belongs to cli/", "cli", &breaches);
  find_code(sources, "std::(cout|cerr|clog|cin)\\b", "streams belong to cli/", "cli", &breaches);
  find_code(sources, kCall + "(abort|terminate)\\s*\\(", "bad input is an Error, a bug is CAROUSEL_ASSERT", "",
            &breaches);
  return breaches;
}

Breaches nothing_banned(const Sources& sources) {
  Breaches breaches;
  find_code(sources, "\\bstd::(regex)\\b", "its recursion overflows the stack: text::Regex instead", "", &breaches);
  find_code(sources, kCall + "(rand|srand|strtok)\\s*\\(", "hidden global state", "", &breaches);
  return breaches;
}

Breaches questions_of_device_have_their_places(const Sources& sources) {
  static const std::regex kQuestion("\\bDevice::(kCuda)\\b|\\b(CAROUSEL_CUDA)\\b");
  Breaches breaches;
  for (const Source& source : sources) {
    const bool allowed = source.path == "carousel/ops/kernel.h" || is_in(source, "carousel/cuda/");
    for (size_t i = 0; !allowed && i < source.code.size(); ++i) {
      std::smatch match;
      if (!std::regex_search(source.code[i], match, kQuestion)) continue;
      breaches.push_back({source.path, i + 1, match[0], "ask the Memory, or declare a kernel (ops/kernel.h)"});
    }
  }
  return breaches;
}

Breaches no_using_namespace(const Sources& sources) {
  Breaches breaches;
  find_code(sources, "\\b(using\\s+namespace)\\b", "no using namespace", "", &breaches);
  return breaches;
}

Breaches every_file_says_its_licence(const Sources& sources) {
  const std::string licence = "// SPDX-License-Identifier: Apache-2.0";
  Breaches breaches;
  for (const Source& source : sources) {
    if (source.lines.front() != licence) breaches.push_back({source.path, 1, "licence", "expected " + licence});
  }
  return breaches;
}

Breaches headers_guard_and_explain_themselves(const Sources& sources) {
  Breaches breaches;
  for (const Source& source : sources) {
    if (!is_header(source)) continue;
    if (std::find(source.lines.begin(), source.lines.end(), "#pragma once") == source.lines.end()) {
      breaches.push_back({source.path, 1, "guard", "no #pragma once"});
    }
    if (!is_comment(source, 1)) breaches.push_back({source.path, 2, "opening", "does not open with what it is"});
  }
  return breaches;
}

Breaches sources_open_with_what_they_are(const Sources& sources) {
  Breaches breaches;
  for (const Source& source : sources) {
    if (is_header(source) || source.lines.size() <= 40 || is_comment(source, 1)) continue;
    breaches.push_back({source.path, 2, "opening", "does not open with what it is"});
  }
  return breaches;
}

Breaches todos_carry_an_issue_number(const Sources& sources) {
  const std::string word =
      "TO"
      "DO";  // apart, so that this file does not find itself
  const std::regex numbered(word + "\\(#[0-9]+\\)");
  Breaches breaches;
  for (const Source& source : sources) {
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string& line = source.lines[i];
      if (line.find(word) == std::string::npos || std::regex_search(line, numbered)) continue;
      breaches.push_back({source.path, i + 1, word, "without (#issue): " + line});
    }
  }
  return breaches;
}

Breaches files_fit_a_sitting(const Sources& sources) {
  Breaches breaches;
  for (const Source& source : sources) {
    const bool kernels = is_kernel(source) && !ends_with(source.path, ".h");
    const size_t most = kernels ? 600 : 400;
    const std::string words = "// Longer than " + std::to_string(most) + " lines: ";
    bool explained = false;
    for (size_t i = 0; i < source.lines.size() && starts_with(source.lines[i], "//"); ++i) {
      explained |= starts_with(source.lines[i], words) && source.lines[i].size() > words.size() + 10;
    }
    if (source.lines.size() > most && !explained) {
      breaches.push_back({source.path, most + 1, "length",
                          std::to_string(source.lines.size()) + " lines; split it, or open with \"" + words + "why\""});
    }
    if (source.lines.size() <= most && explained) breaches.push_back({source.path, 1, "length", "is not that long"});
    for (size_t i = 0; i < source.lines.size(); ++i) {
      if (source.lines[i].size() > 140) breaches.push_back({source.path, i + 1, "width", "beyond 140 columns"});
    }
  }
  return breaches;
}

Breaches files_have_telling_names(const Sources& sources) {
  static const std::set<std::string> kStems = {
      "utils",   "util",   "common",  "helpers", "helper",          "types",    "constants",
      "graph",   "fusion", "session", "context", "graph_scheduler", "kv_cache", "recurrent_cache",
      "prefill", "decode", "logging", "backend", "last_error"};
  static const std::set<std::string> kLists = {"carousel/ops/ops.h", "carousel/blocks/blocks.h"};
  static const std::regex kAged("(_v2|_new|_old|kernel[0-9]+)$");
  Breaches breaches;
  for (const Source& source : sources) {
    const std::string stem = std::filesystem::path(source.path).stem().string();
    if (kStems.count(stem) != 0) breaches.push_back({source.path, 1, stem, "says nothing, or what there shall not be"});
    if (std::regex_search(stem, kAged)) breaches.push_back({source.path, 1, stem, "name the method, not the age"});
    if (kLists.count(source.path) != 0) breaches.push_back({source.path, 1, stem, "include what you use"});
  }
  return breaches;
}

// core/ is `carousel` itself, and so are the contracts of ops/ that every floor above speaks (Ctx, Weight, Params).
Breaches the_namespace_is_the_folder(const Sources& sources) {
  static const std::regex kOpening("^namespace carousel(::(\\w+))?");
  Breaches breaches;
  for (const Source& source : sources) {
    for (size_t i = 0; i < source.code.size(); ++i) {
      std::smatch match;
      if (!std::regex_search(source.code[i], match, kOpening) || !match[2].matched) continue;
      const bool kernel = match[2] == "cpu" || match[2] == "cuda" || match[2] == "kernels";
      if (kernel || match[2] == source.folder) continue;
      breaches.push_back({source.path, i + 1, match[2], "expected carousel::" + source.folder});
    }
  }
  return breaches;
}

Breaches spelling_is_the_families(const Sources& sources) {
  static const std::regex kNames(
      "\\bbackbone\\.[ a-z]|\\bmodel\\.(layers|embed_tokens|norm|embedding_norm)\\b|\\b(self_attn|mlp|feed_forward)\\.|"
      "_layernorm\\.|\\boperator_norm\\.|block_stack\\.|\\b[ms]lstm_layer\\.|\\bxlstm\\.(slstm|mlstm|proj|conv)|"
      "\\brnn_cell\\.|\\blstm\\.(input|recurrent)_map|_patch_embedding\\.|"
      "\\battn_(norm|q|k|v|output|[qk]_norm)\\.|\\bffn_(norm|gate|up|down)(_exps|_inp)?\\.|\\bshortconv\\.|"
      "\\bexp_probs");
  static const std::regex kOfAnyGguf("\\bblk\\.|\\btoken_embd|\\boutput_norm\\.|\\brope_freqs\\b");
  static const std::regex kChoice("(model_type|arch|architecture)(\"\\])?(\\.starts_with\\(|\\s*[!=]=\\s*)\"");
  Breaches breaches;
  for (const Source& source : sources) {
    if (is_in(source, "carousel/model/families/")) continue;
    const bool format = is_in(source, "carousel/formats/"), gguf = is_in(source, "carousel/model/gguf/");
    for (size_t i = 0; i < source.lines.size(); ++i) {
      if (starts_with(source.code[i], "#include")) continue;
      const std::string& text = source.text[i];
      const bool named = !format && std::regex_search(text, kNames);
      const bool general = !format && !gguf && std::regex_search(text, kOfAnyGguf);
      const bool chosen = std::regex_search(source.lines[i], kChoice);
      if (!named && !general && !chosen) continue;
      breaches.push_back({source.path, i + 1, "spelling", "belongs to the family's file: " + source.lines[i]});
    }
  }
  return breaches;
}

}  // namespace carousel::layering
