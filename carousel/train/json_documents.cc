// SPDX-License-Identifier: Apache-2.0
// Documents of .jsonl: texts, prompts with completions, conversations.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <string_view>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/unicode.h"
#include "carousel/train/documents.h"

namespace carousel::train {
namespace {

class JsonReader {
 public:
  JsonReader(const std::string& path, const ReadOptions& options, const Vocabulary& vocabulary)
      : path_(path), options_(options), vocabulary_(vocabulary) {}

  /// The document of a line; empty where the line holds an empty text.
  const Document& read(std::string_view line, int64_t number) {
    where_ = fmt::format("{}:{}", path_, number);
    document_.ids.clear();
    document_.scored.clear();
    const Json value = parse_json(line, where_);
    if (!value.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", where_, brief(value));
    if (!options_.key.empty()) {
      read_key(value);
    } else if (value.contains("text")) {
      read_text(string_at(value, "text"));
    } else if (value.contains("prompt") && value.contains("completion")) {
      read_pair(string_at(value, "prompt"), string_at(value, "completion"));
    } else if (value.contains("messages")) {
      read_messages(value["messages"]);
    } else {
      missing(value, "\"text\", \"prompt\" and \"completion\", or \"messages\" (--key NAME names another)");
    }
    return document_;
  }

 private:
  [[noreturn]] void missing(const Json& value, const std::string& expected) const {
    std::vector<std::string> keys;
    for (const auto& [key, unused] : value.items()) keys.push_back("\"" + key + "\"");
    std::string got = keys.empty() ? "none" : fmt::format("{}", fmt::join(keys, ", "));
    constexpr size_t kShown = 120;
    if (got.size() > kShown) got = got.substr(0, kShown) + "...";
    fail(ErrorKind::kInput, "{}: keys: got {}, expected {}", where_, text::replace_invalid(got), expected);
  }

  std::string string_at(const Json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end()) missing(object, fmt::format("\"{}\"", key));
    if (!found->is_string()) {
      fail(ErrorKind::kInput, "{}: \"{}\": got {}, expected a string", where_, key, brief(*found));
    }
    return found->get<std::string>();
  }

  void read_key(const Json& value) {
    const auto found = value.find(options_.key);
    if (found == value.end()) missing(value, fmt::format("\"{}\" (--key)", options_.key));
    if (found->is_array()) return read_messages(*found);
    read_text(string_at(value, options_.key.c_str()));
  }

  void read_text(const std::string& text) {
    if (!text.empty()) make_document(text, vocabulary_, document_);
  }

  void append(const std::vector<int32_t>& ids, bool scored) {
    document_.ids.insert(document_.ids.end(), ids.begin(), ids.end());
    document_.scored.insert(document_.scored.end(), ids.size(), scored ? 1 : 0);
  }

  void read_pair(const std::string& prompt, const std::string& completion) {
    const text::Tokenizer& tokenizer = tokenizer_for(path_, vocabulary_);
    append(tokenizer.encode(prompt, true, true), false);
    if (prompt.empty() && document_.ids.empty() && vocabulary_.start) append({*vocabulary_.start}, false);
    append(tokenizer.encode_inner(completion), true);
    if (vocabulary_.end) append({*vocabulary_.end}, true);
    score_all();
  }

  const model::ChatTurns& turns(bool with_system) {
    const auto known = turns_.find(with_system);
    if (known != turns_.end()) return known->second;
    tokenizer_for(path_, vocabulary_);
    model::ChatTurns found = vocabulary_.turns(with_system);
    if (!found.turns) {
      fail(ErrorKind::kInput, "the tokenizer lacks the control tokens of ChatML, expected a model that knows turns");
    }
    return turns_.emplace(with_system, std::move(found)).first->second;
  }

  struct Message {
    std::string role, content;
  };
  Message message_at(const Json& messages, size_t i) const {
    if (!messages[i].is_object()) {
      fail(ErrorKind::kInput, "{}: message {}: got {}, expected an object with \"role\" and \"content\"", where_, i + 1,
           brief(messages[i]));
    }
    return {string_at(messages[i], "role"), string_at(messages[i], "content")};
  }

  void read_messages(const Json& messages) {
    if (!messages.is_array() || messages.empty()) {
      fail(ErrorKind::kInput, "{}: \"messages\": got {}, expected a list of messages", where_, brief(messages));
    }
    std::vector<Message> list;
    for (size_t i = 0; i < messages.size(); ++i) list.push_back(message_at(messages, i));
    const bool with_system = list.front().role == "system";
    const std::string system = with_system ? list.front().content : "";
    if (with_system && system.empty()) {  // a template may write another turn for it, or none
      fail(ErrorKind::kInput, "{}: message 1: got an empty system text, expected text, or no such message", where_);
    }
    check_roles(list, with_system ? 1 : 0);
    try {
      add_turns(turns(with_system), list, with_system ? 1 : 0, system);
    } catch (const Error& error) {
      fail(error.kind(), "{}: {}", where_, error.what());
    }
    score_all();
  }

  // Chats alternate: only then is their form proven (model/chat_turns).
  void check_roles(const std::vector<Message>& list, size_t first) const {
    for (size_t i = first; i < list.size(); ++i) {
      const char* expected = (i - first) % 2 == 0 ? "user" : "assistant";
      if (list[i].role == expected) continue;
      fail(ErrorKind::kInput, "{}: message {}: got the role \"{}\", expected \"{}\"", where_, i + 1,
           text::replace_invalid(list[i].role.substr(0, 40)), expected);
    }
    if ((list.size() - first) % 2 == 0 && list.size() > first) return;
    fail(ErrorKind::kInput, "{}: {} messages, expected an answer of \"assistant\" at the end", where_, list.size());
  }

  void add_turns(const model::ChatTurns& form, const std::vector<Message>& list, size_t first,
                 const std::string& system) {
    for (size_t i = first; i < list.size(); i += 2) {
      append(form.ask(document_.ids, system, list[i].content), false);
      append(form.answer(list[i + 1].content), true);
    }
  }

  void score_all() {
    if (options_.loss_on == LossOn::kAll) document_.scored.clear();
  }

  const std::string& path_;
  const ReadOptions& options_;
  const Vocabulary& vocabulary_;
  std::map<bool, model::ChatTurns> turns_;  // by whether a system turn comes first
  std::string where_;                       // "file:line"
  Document document_;
};

}  // namespace

void read_jsonl(const formats::MappedFile& file, const ReadOptions& options, const Vocabulary& vocabulary,
                const DocumentSink& sink) {
  tokenizer_for(file.path(), vocabulary);
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (rest.starts_with(text::kByteOrderMark)) rest.remove_prefix(text::kByteOrderMark.size());
  JsonReader reader(file.path(), options, vocabulary);
  PageRelease pages(file);
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t size = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, size);
    if (line.find_first_not_of(" \t\r") != line.npos) {
      const Document& document = reader.read(line, number);
      if (!document.ids.empty()) sink(document);
    }
    rest.remove_prefix(std::min(size + 1, rest.size()));
    pages.read_up_to(rest.data());
  }
}

}  // namespace carousel::train
