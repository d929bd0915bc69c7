// SPDX-License-Identifier: Apache-2.0
// Reads a tokenizer.json: the two large members in one pass, the others as trees of values.
#include "carousel/text/tokenizer_file.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/json_scan.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

constexpr size_t kMaxBytes = size_t{256} << 20;
constexpr size_t kMaxSmallPart = size_t{16} << 20;  // of the parts read as a tree of values
constexpr size_t kMaxAddedSize = 1024;              // bytes of one added token
constexpr size_t kMaxTemplate = 256;

// The members of one object, unread: key -> text of the value and where it begins.
struct Member {
  std::string_view text;
  size_t begin = 0;
};
using Members = std::map<std::string, Member>;

// Takes the object that comes next. The value of the key "model" is taken apart the same way, into `model`, so that the
// bulk of the file is stepped over once.
Members take_members(JsonScan& scan, Members* model, const std::string& where) {
  Members members;
  scan.expect('{');
  bool more = !scan.take('}');
  while (more) {
    const std::string key(scan.string());
    scan.expect(':');
    scan.peek();
    Member member{"", scan.position()};
    if (model != nullptr && key == "model") {
      *model = take_members(scan, nullptr, where);
    } else {
      member.text = scan.skip();
    }
    if (!members.emplace(key, member).second) {
      fail(ErrorKind::kInput, "{}: key \"{}\" appears twice in one object", where, key.substr(0, 60));
    }
    more = scan.take(',');
    if (!more) scan.expect('}');
  }
  return members;
}

Json small_part(const Members& members, const char* key, const std::string& where) {
  const auto it = members.find(key);
  if (it == members.end()) return nullptr;
  return parse_json(it->second.text, where + ": " + key, {kMaxSmallPart, 64});
}

// What the vocabulary or the merges are read from.
struct Part {
  JsonScan scan;
  size_t size;
};
Part large_part(std::string_view json, const Members& members, const char* key, const std::string& where) {
  const auto it = members.find(key);
  if (it == members.end()) fail(ErrorKind::kInput, "{}: model: \"{}\" is missing", where, key);
  const Member& member = it->second;
  return {JsonScan(json, member.begin, member.begin + member.text.size(), where), member.text.size()};
}

// Ids may have holes, but a short file may not ask for a huge table.
void check_id(int64_t id, size_t tokens, std::string_view name, const std::string& where) {
  const int64_t limit = std::min(kMaxTokenId, (int64_t{1} << 20) + 16 * static_cast<int64_t>(tokens));
  if (id < 0 || id > limit) {
    fail(ErrorKind::kInput, "{}: token \"{}\" has id {}, expected 0 to {}", where, name.substr(0, 60), id, limit);
  }
}

void add_token(Vocab& vocab, std::string_view name, int32_t id, const std::string& where) {
  switch (vocab.add(name, id)) {
    case Vocab::Added::kNew:
      return;
    case Vocab::Added::kTextTaken:
      fail(ErrorKind::kInput, "{}: token \"{}\" has id {} and id {}", where, name.substr(0, 60), vocab.find(name), id);
    case Vocab::Added::kIdTaken:
      fail(ErrorKind::kInput, "{}: id {} belongs to token \"{}\" and to \"{}\"", where, id,
           vocab.text(id).substr(0, 60), name.substr(0, 60));
  }
}

Vocab read_vocab(Part part, const std::string& where) {
  Vocab vocab(part.size / 16);
  JsonScan& scan = part.scan;
  scan.expect('{');
  bool more = !scan.take('}');
  std::string name;
  while (more) {
    name = scan.string();
    scan.expect(':');
    const int64_t id = scan.integer();
    check_id(id, part.size / 4, name, where);
    const size_t before = vocab.size();
    add_token(vocab, name, static_cast<int32_t>(id), where);
    if (vocab.size() == before) {
      fail(ErrorKind::kInput, "{}: key \"{}\" appears twice in one object", where, name.substr(0, 60));
    }
    more = scan.take(',');
    if (!more) scan.expect('}');
  }
  scan.finish();
  return vocab;
}

// "a b" or ["a", "b"].
void read_merge(JsonScan& scan, std::string& first, Bpe& bpe, const std::string& where) {
  if (scan.peek() == '"') {
    const std::string_view both = scan.string();
    const size_t space = both.find(' ');
    if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
      fail(ErrorKind::kInput, "{}: merge {} is \"{}\", expected two tokens with a space between", where,
           bpe.merge_count(), both.substr(0, 60));
    }
    return bpe.add_merge(both.substr(0, space), both.substr(space + 1));
  }
  scan.expect('[');
  first = scan.string();
  scan.expect(',');
  const std::string_view second = scan.string();
  bpe.add_merge(first, second);
  scan.expect(']');
}

void read_merges(Part part, Bpe& bpe, const std::string& where) {
  JsonScan& scan = part.scan;
  scan.expect('[');
  std::string first;
  bool more = !scan.take(']');
  while (more) {
    read_merge(scan, first, bpe, where);
    more = scan.take(',');
    if (!more) scan.expect(']');
  }
  scan.finish();
  bpe.finish();
}

BpeOptions read_options(const Members& model, const std::string& where) {
  Json small = Json::object();
  for (const auto& [key, member] : model) {
    if (key != "vocab" && key != "merges") small[key] = small_part(model, key.c_str(), where);
  }
  Fields fields(small, where + ": model");
  const std::string type = fields.string("type", "BPE");
  if (type != "BPE") {
    fail(ErrorKind::kInput, "{}: model: type \"{}\" is not supported, expected \"BPE\"", where, type.substr(0, 60));
  }
  BpeOptions options;
  if (fields.has("unk_token")) options.unk_token = fields.string("unk_token");
  options.continuing_subword_prefix = fields.string("continuing_subword_prefix", "");
  options.end_of_word_suffix = fields.string("end_of_word_suffix", "");
  options.fuse_unk = fields.boolean("fuse_unk", false);
  options.byte_fallback = fields.boolean("byte_fallback", false);
  options.ignore_merges = fields.boolean("ignore_merges", false);
  fields.number("dropout", 0, 0, 0);
  fields.ignore({"unk_token", "cache_capacity"});
  fields.finish();
  return options;
}

std::unique_ptr<Bpe> read_model(std::string_view json, const Members& model, bool byte_level,
                                const std::string& where) {
  BpeOptions options = read_options(model, where);
  options.byte_level = byte_level;
  Vocab vocab = read_vocab(large_part(json, model, "vocab", where), where);
  auto bpe = std::make_unique<Bpe>(std::move(vocab), std::move(options), where);
  read_merges(large_part(json, model, "merges", where), *bpe, where);
  return bpe;
}

std::vector<AddedToken> read_added(const Json& list, const Vocab& model, const std::string& where) {
  std::vector<AddedToken> added;
  if (list.is_null()) return added;
  if (!list.is_array()) fail(ErrorKind::kInput, "{}: \"added_tokens\" is {}, expected a list", where, brief(list));
  Vocab seen(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string here = fmt::format("{}: added_tokens[{}]", where, i);
    Fields fields(list[i], here);
    AddedToken token;
    token.content = fields.string("content");
    const int64_t id = fields.integer("id", INT64_MIN, INT64_MAX);
    check_id(id, model.size() + list.size(), token.content, here);
    token.id = static_cast<int32_t>(id);
    token.single_word = fields.boolean("single_word", false);
    token.lstrip = fields.boolean("lstrip", false);
    token.rstrip = fields.boolean("rstrip", false);
    token.special = fields.boolean("special", false);
    token.normalized = fields.boolean("normalized", !token.special);
    fields.finish();
    if (token.content.size() > kMaxAddedSize) {
      fail(ErrorKind::kInput, "{}: \"content\" of {} bytes, expected at most {}", here, token.content.size(),
           kMaxAddedSize);
    }
    const int32_t known = model.find(token.content);
    if (known != kNoToken && known != token.id) {
      fail(ErrorKind::kInput, "{}: \"{}\" has id {}, but {} in the model's vocab", here, token.content.substr(0, 60),
           token.id, known);
    }
    if (known == kNoToken && model.has(token.id)) {
      fail(ErrorKind::kInput, "{}: id {} belongs to token \"{}\" of the model's vocab and to \"{}\"", here, token.id,
           model.text(token.id).substr(0, 60), token.content.substr(0, 60));
    }
    add_token(seen, token.content, token.id, here);
    if (!token.content.empty()) added.push_back(std::move(token));
  }
  return added;
}

// One template: what stands before and behind the text.
struct Surround {
  std::vector<int32_t> before, after;
};

std::vector<int32_t> special_ids(const Json& specials, const std::string& name, const std::string& where) {
  const auto it = specials.find(name);
  if (it == specials.end()) {
    fail(ErrorKind::kInput, "{}: \"special_tokens\" has no \"{}\", which the template names", where,
         name.substr(0, 60));
  }
  Fields fields(*it, where + ".special_tokens");
  std::vector<int32_t> ids;
  for (const int64_t id : fields.integers("ids", 0, kMaxTokenId, kMaxTemplate)) ids.push_back(static_cast<int32_t>(id));
  fields.ignore({"id", "tokens"});
  fields.finish();
  return ids;
}

Surround read_template(Fields& fields, const std::string& where) {
  const Json* single = fields.raw("single");
  if (single == nullptr || !single->is_array() || single->size() > kMaxTemplate) {
    fail(ErrorKind::kInput, "{}: \"single\" is not a list of at most {} pieces", where, kMaxTemplate);
  }
  const Json specials = fields.object("special_tokens");
  fields.ignore({"pair"});
  Surround out;
  int texts = 0;
  for (const Json& piece : *single) {
    Fields outer(piece, where + ".single");
    const bool is_text = outer.has("Sequence");
    Fields inner(outer.object(is_text ? "Sequence" : "SpecialToken"), where + ".single");
    outer.finish();
    const std::string id = inner.string("id");
    inner.ignore({"type_id"});
    inner.finish();
    if (is_text) {
      if (id != "A")
        fail(ErrorKind::kInput, "{}: \"single\" names sequence \"{}\", expected \"A\"", where, id.substr(0, 9));
      ++texts;
      continue;
    }
    const std::vector<int32_t> ids = special_ids(specials, id, where);
    std::vector<int32_t>& side = texts == 0 ? out.before : out.after;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (texts != 1) fail(ErrorKind::kInput, "{}: \"single\" has the text {} times, expected once", where, texts);
  return out;
}

void read_post_processor(const Json& json, TokenizerFile& file, const std::string& where, int depth) {
  if (json.is_null()) return;
  Fields fields(json, where);
  const std::string type = fields.string("type");
  if (type == "ByteLevel") {  // moves offsets only
    fields.ignore({"add_prefix_space", "trim_offsets", "use_regex"});
  } else if (type == "TemplateProcessing") {
    const Surround surround = read_template(fields, where);
    file.before.insert(file.before.begin(), surround.before.begin(), surround.before.end());
    file.after.insert(file.after.end(), surround.after.begin(), surround.after.end());
  } else if (type == "Sequence") {
    const Json* list = fields.raw("processors");
    const bool fits = list != nullptr && list->is_array() && list->size() <= 64 && depth <= 8;
    if (!fits) fail(ErrorKind::kInput, "{}: \"processors\" is not a list of at most 64, or nests too deep", where);
    for (size_t i = 0; i < list->size(); ++i) {
      read_post_processor((*list)[i], file, fmt::format("{}[{}]", where, i), depth + 1);
    }
  } else {
    fail(ErrorKind::kInput, "{}: type \"{}\" is not supported; supported: Sequence, ByteLevel, TemplateProcessing",
         where, type.substr(0, 60));
  }
  fields.finish();
}

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view json, const std::string& where) {
  if (json.size() > kMaxBytes) {
    fail(ErrorKind::kInput, "{}: JSON of {} bytes, expected at most {}", where, json.size(), kMaxBytes);
  }
  if (const size_t valid = valid_prefix(json); valid < json.size()) {
    fail(ErrorKind::kInput, "{}: not valid UTF-8 at byte {}", where, valid);
  }
  JsonScan scan(json, 0, json.size(), where);
  Members model;
  const Members members = take_members(scan, &model, where);
  scan.finish();
  if (members.count("model") == 0) fail(ErrorKind::kInput, "{}: \"model\" is missing", where);
  TokenizerFile file;
  file.normalizer = Normalizer(small_part(members, "normalizer", where), where + ": normalizer");
  file.pre_tokenizer = PreTokenizer(small_part(members, "pre_tokenizer", where), where + ": pre_tokenizer");
  file.decoder = Decoder(small_part(members, "decoder", where), where + ": decoder");
  file.bpe = read_model(json, model, file.pre_tokenizer.byte_level(), where);
  file.added = read_added(small_part(members, "added_tokens", where), file.bpe->vocab(), where);
  read_post_processor(small_part(members, "post_processor", where), file, where + ": post_processor", 0);
  // Padding and truncation are the caller's business here; an engine that cut prompts unasked would be wrong.
  return file;
}

}  // namespace carousel::text
