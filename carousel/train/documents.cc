// SPDX-License-Identifier: Apache-2.0
// The choice of a reader, and documents of plain text.
#include "carousel/train/documents.h"

#include <algorithm>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/text/unicode.h"

namespace carousel::train {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";
// A longer document is encoded in pieces that end at line breaks, so that memory does not hold it whole.
constexpr size_t kPieceBytes = size_t{16} << 20;

std::string_view text_of(const formats::MappedFile& file) {
  std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (text.starts_with(text::kByteOrderMark)) text.remove_prefix(text::kByteOrderMark.size());
  return text;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\f\v") == text.npos; }

// The bytes of the next piece of a document.
size_t piece_bytes(std::string_view text) {
  if (text.size() <= kPieceBytes) return text.size();
  const size_t line = text.find('\n', kPieceBytes);
  return line == text.npos ? text.size() : line + 1;
}

void check_text(const std::string& path, std::string_view piece, size_t offset) {
  const size_t valid = text::valid_prefix(piece);
  if (valid < piece.size()) fail(ErrorKind::kInput, "{}: byte {} is no UTF-8, expected text", path, offset + valid);
}

// Appends what the tokenizer makes of a text. Its own tokens stand around a text that begins here (`first`); the one
// that ends a document is left to the caller.
void append_text(std::string_view text, const Vocabulary& vocabulary, bool first, std::vector<int32_t>& out) {
  const std::vector<int32_t> ids = vocabulary.tokenizer->encode(text, first, true);
  out.insert(out.end(), ids.begin(), ids.end());
  if (vocabulary.end && !out.empty() && out.back() == *vocabulary.end) out.pop_back();
}

void send_document(std::string_view text, const Vocabulary& vocabulary, const DocumentSink& sink) {
  Document part;
  if (vocabulary.start) part.ids.push_back(*vocabulary.start);
  for (bool first = true; !text.empty(); first = false) {
    const size_t size = piece_bytes(text);
    append_text(text.substr(0, size), vocabulary, first, part.ids);
    text.remove_prefix(size);
    part.goes_on = !text.empty();
    if (!part.goes_on && vocabulary.end) part.ids.push_back(*vocabulary.end);
    sink(part);
    part.ids.clear();
  }
}

}  // namespace

void PageRelease::read_up_to(const void* end) {
  constexpr size_t kBytes = size_t{16} << 20;
  const auto size = static_cast<size_t>(static_cast<const std::byte*>(end) - begin_);
  if (size < kBytes) return;
  file_.release(begin_, size);
  begin_ += size;
}

const text::Tokenizer& tokenizer_for(const std::string& path, const Vocabulary& vocabulary) {
  if (!vocabulary.tokenizer) fail(ErrorKind::kInput, "{}: holds text: {}", path, vocabulary.missing);
  return *vocabulary.tokenizer;
}

void make_document(std::string_view text, const Vocabulary& vocabulary, Document& out) {
  out.ids.clear();
  out.scored.clear();
  if (vocabulary.start) out.ids.push_back(*vocabulary.start);
  append_text(text, vocabulary, true, out.ids);
  if (vocabulary.end) out.ids.push_back(*vocabulary.end);
}

void read_text(const formats::MappedFile& file, const ReadOptions& options, const Vocabulary& vocabulary,
               const DocumentSink& sink) {
  tokenizer_for(file.path(), vocabulary);
  const std::string_view separator = options.separator ? std::string_view(*options.separator) : kEndOfText;
  if (separator.empty()) fail(ErrorKind::kUsage, "--separator: got an empty text, expected what ends a document");
  const std::string_view whole = text_of(file);
  const size_t mark = file.bytes().size() - whole.size();
  PageRelease pages(file);
  for (size_t begin = 0; begin < whole.size();) {
    const size_t found = whole.find(separator, begin), end = std::min(found, whole.size());
    const std::string_view text = whole.substr(begin, end - begin);
    if (!is_blank(text)) {
      if (!vocabulary.bytes) check_text(file.path(), text, mark + begin);
      send_document(text, vocabulary, sink);
      pages.read_up_to(text.data() + text.size());
    }
    begin = found == whole.npos ? whole.size() : end + separator.size();
  }
}

void read_documents(const DataFile& file, const formats::MappedFile& bytes, const ReadOptions& options,
                    const Vocabulary& vocabulary, const DocumentSink& sink) {
  switch (file.kind) {
    case FileKind::kText:
      return read_text(bytes, options, vocabulary, sink);
    case FileKind::kJsonl:
      return read_jsonl(bytes, options, vocabulary, sink);
    case FileKind::kBin:
    case FileKind::kNpy:
      return read_ids(bytes, file.kind, options, vocabulary, sink);
    case FileKind::kCsv:
      break;
  }
  fail(ErrorKind::kInput, "{}: a table of features, expected text, .jsonl, .bin or .npy for a language model",
       file.path);
}

}  // namespace carousel::train
