// SPDX-License-Identifier: Apache-2.0
// Readers: a file becomes documents, each a list of ids. A document is what begins with the zero state.
//
// | file   | documents                                                          | ids of a document                |
// |--------|--------------------------------------------------------------------|----------------------------------|
// | text   | end at "<|endoftext|>" or the separator; blank ones are skipped    | start, text, end                 |
// | .jsonl | a line's text                                                      | start, text, end                 |
// |        | a line's prompt and completion                                     | prompt, completion, end; loss on |
// |        |                                                                    | completion and end               |
// |        | a line's messages                                                  | the turns of a chat; loss on     |
// |        |                                                                    | answers and the ends of answers  |
// | .bin   | llm.c shards: begin or end at the id of "<|endoftext|>", as they   | ids; the separator's id belongs  |
// |        | lie; bare ids: one document                                        | to both documents beside it      |
// | .npy   | 1-D integers: one document                                         | ids                              |
//
// A separator that is asked for also divides bare ids and .npy, at its id.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "carousel/formats/mapped_file.h"
#include "carousel/train/data_path.h"
#include "carousel/train/vocabulary.h"

namespace carousel::train {

enum class LossOn {
  kAnswers,  // completions, and what the assistant says
  kAll,      // every token
};

struct ReadOptions {
  std::optional<std::string> separator;  // ends documents of text; absent: "<|endoftext|>"
  std::string key;                       // of .jsonl: holds a text or messages; empty: text, prompt, messages
  LossOn loss_on = LossOn::kAnswers;
  int id_bytes = 0;  // size of a bare id: 2, 4, or 0: .bin must be a shard
};

struct Document {
  std::vector<int32_t> ids;
  std::vector<uint8_t> scored;  // whether the loss counts ids[i] as a target; empty: it counts all
  bool goes_on = false;         // the next Document is the rest of this one: long ones come in parts
};
using DocumentSink = std::function<void(const Document&)>;

/// Hands every document of the file to `sink`, in order. Documents without an id are skipped. Throws Error(kInput)
/// "file:line: what" for JSON and messages that cannot be used, "file: byte N" for text that is no UTF-8, "file: offset
/// N" for an id beyond the vocabulary.
void read_documents(const DataFile& file, const formats::MappedFile& bytes, const ReadOptions& options,
                    const Vocabulary& vocabulary, const DocumentSink& sink);

/// Gives the pages of a file back as a reader moves on, so that memory does not hold what was read.
class PageRelease {
 public:
  explicit PageRelease(const formats::MappedFile& file) : file_(file), begin_(file.bytes().data()) {}
  /// The bytes before `end` were read.
  void read_up_to(const void* end);

 private:
  const formats::MappedFile& file_;
  const std::byte* begin_;  // pages before it were given back
};

/// The parts of read_documents, one file each.
void read_text(const formats::MappedFile& bytes, const ReadOptions& options, const Vocabulary& vocabulary,
               const DocumentSink& sink);
void read_jsonl(const formats::MappedFile& bytes, const ReadOptions& options, const Vocabulary& vocabulary,
                const DocumentSink& sink);
void read_ids(const formats::MappedFile& bytes, FileKind kind, const ReadOptions& options, const Vocabulary& vocabulary,
              const DocumentSink& sink);

/// The tokenizer, for a file of text. Throws Error(kInput) where the model has none.
const text::Tokenizer& tokenizer_for(const std::string& path, const Vocabulary& vocabulary);
/// Makes `out` the document of a text. The text must be valid.
void make_document(std::string_view text, const Vocabulary& vocabulary, Document& out);

}  // namespace carousel::train
