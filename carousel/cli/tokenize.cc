// SPDX-License-Identifier: Apache-2.0
// carousel tokenize: text to a JSON array of ids, and back.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <string>

#include "carousel/cli/command.h"
#include "carousel/cli/escapes.h"
#include "carousel/cli/prompt.h"
#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/model/load.h"
#include "carousel/text/tokenizer.h"

namespace carousel::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;

struct TokenizeOptions {
  std::string path, text, file;
  bool has_text = false;
  Escapes escapes;
  bool decode = false;
  bool no_special = false;
};

text::Tokenizer open_tokenizer(const std::string& path) {
  const bool gguf = formats::is_gguf(path);
  const std::string inside = !gguf && is_folder(path) ? model::gguf_in(path) : "";
  if (gguf || (!inside.empty() && !file_exists(path + "/tokenizer.json"))) {
    const std::string file = gguf ? path : inside;
    const formats::Checkpoint checkpoint = formats::Checkpoint::open(file);
    const std::optional<text::Tokenizer> tokenizer = model::open_tokenizer({"", file, file}, checkpoint.gguf());
    if (tokenizer) return *tokenizer;
    if (model::read_model_config({"", file, file}, &checkpoint).vocab_size == 256) return text::Tokenizer::bytes();
    fail(ErrorKind::kInput, "{}: has no tokenizer, expected \"tokenizer.ggml.model\" to name one", file);
  }
  if (!is_folder(path)) return text::Tokenizer::from_file(path);
  const std::string file = path + "/tokenizer.json";
  if (file_exists(file)) return text::Tokenizer::from_file(file);
  const std::string config = path + "/config.json";
  if (file_exists(config)) {
    const Json json = read_json_file(config);
    if (json.is_object() && json.value("vocab_size", Json()) == 256) return text::Tokenizer::bytes();
  }
  fail(ErrorKind::kInput, "{}: no tokenizer.json, and no config.json with a vocab_size of 256 to work on bytes", path);
}

std::vector<int32_t> parse_ids(const std::string& text, int64_t vocab_size) {
  const Json json = parse_json(text, "ids", {kMaxTextBytes, 4});
  if (!json.is_array()) fail(ErrorKind::kInput, "ids: got {}, expected a JSON array of ids", brief(json));
  std::vector<int32_t> ids;
  ids.reserve(json.size());
  for (const Json& id : json) {
    const bool valid = id.is_number_integer() && id >= 0 && id < vocab_size;
    if (!valid) fail(ErrorKind::kInput, "ids: got {}, expected an integer from 0 to {}", brief(id), vocab_size - 1);
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

int run_tokenize(const TokenizeOptions& options) {
  if (options.has_text && !options.file.empty())
    fail(ErrorKind::kUsage, "tokenize: got both -p and -f, expected at most one");
  const text::Tokenizer tokenizer = open_tokenizer(options.path);
  const std::string text = options.has_text ? options.escapes.read(options.text)
                                            : read_input(options.file.empty() ? "-" : options.file, kMaxTextBytes);
  if (options.decode) {
    const std::string out = tokenizer.decode(parse_ids(text, tokenizer.vocab_size()), options.no_special);
    fmt::print("{}", out);
    return 0;
  }
  const std::vector<int32_t> ids = tokenizer.encode(text, !options.no_special, true);
  fmt::print("[{}]\n", fmt::join(ids, ", "));
  return 0;
}

}  // namespace

std::function<int()> setup_tokenize(CLI::App& app) {
  const auto options = std::make_shared<TokenizeOptions>();
  app.add_option("path", options->path, "Model folder, .gguf or tokenizer.json")->required();
  CLI::Option* text = app.add_option("-p,--prompt", options->text,
                                     std::string("Text, or with --decode a JSON array of ids") + kTakesEscapes);
  options->escapes.add_option(app, "-p");
  app.add_option("-f,--file", options->file, "File to read it from; -: stdin (default: stdin)");
  app.add_flag("--decode", options->decode, "Ids to text");
  app.add_flag("--no-special", options->no_special,
               "Put no bos or eos around the text; with --decode leave special tokens out");
  return [options, text] {
    options->has_text = text->count() > 0;
    return run_tokenize(*options);
  };
}

}  // namespace carousel::cli
