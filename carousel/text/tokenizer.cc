// SPDX-License-Identifier: Apache-2.0
// The stages of encoding and decoding. Run, below, states their order.
#include "carousel/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/text/tokenizer_file.h"
#include "carousel/text/unicode.h"

namespace carousel::text {

struct Tokenizer::Impl {
  TokenizerFile file;
  Vocab added_vocab;              // the added tokens
  std::vector<bool> special;      // [ids of special tokens]
  AddedTokens raw_tokens;         // matched on raw text
  AddedTokens normalized_tokens;  // matched on normalized text
  std::string kind;

  std::string_view token(int64_t id) const {
    return added_vocab.has(id) ? added_vocab.text(id) : file.bpe->vocab().text(id);
  }
  bool has(int64_t id) const { return added_vocab.has(id) || file.bpe->vocab().has(id); }
  bool is_special(int64_t id) const {
    return id >= 0 && id < static_cast<int64_t>(special.size()) && special[static_cast<size_t>(id)];
  }

  struct Run;
};

namespace {

// A segment of text, valid UTF-8 or not, and whether it begins the whole input.
struct Segment {
  std::string_view text;
  bool at_start;
};

size_t first_character(std::string_view text) { return text.empty() ? 0 : decode_utf8(text, 0).size; }

}  // namespace

// One encoding. Stages: added tokens in the raw text -> normalizer -> added tokens in normalized text -> pre-tokenizer
// -> BPE word by word.
struct Tokenizer::Impl::Run {
  const Impl& impl;
  Added which;
  bool begins;  // the text is a whole input, not the middle of one
  Bpe::Scratch scratch;
  std::vector<int32_t> ids{};

  void text(std::string_view whole) {
    impl.raw_tokens.split(whole, which, [&](size_t begin, size_t end, const AddedToken* token) {
      if (token != nullptr) return ids.push_back(token->id);
      raw_segment({whole.substr(begin, end - begin), begins && begin == 0});
    });
  }

  // Byte-level models keep invalid bytes as words of their own; the valid text around them goes on as usual.
  void raw_segment(Segment segment) {
    std::string_view rest = segment.text;
    if (!impl.file.pre_tokenizer.byte_level()) {
      if (valid_prefix(rest) == rest.size()) return normalized({rest, segment.at_start});
      return normalized({replace_invalid(rest), segment.at_start});
    }
    while (!rest.empty()) {
      const size_t valid = valid_prefix(rest);
      if (valid > 0) normalized({rest.substr(0, valid), segment.at_start && rest.size() == segment.text.size()});
      rest.remove_prefix(valid);
      size_t bad = 0;
      while (bad < rest.size() && !decode_utf8(rest, bad).valid) ++bad;
      impl.file.bpe->encode(rest.substr(0, bad), scratch, ids);
      rest.remove_prefix(bad);
    }
  }

  void normalized(Segment segment) {
    size_t origin = segment.at_start ? first_character(segment.text) : 0;
    if (impl.file.normalizer.empty()) return words(segment.text, origin);
    const std::string text = impl.file.normalizer.apply(segment.text, segment.at_start ? &origin : nullptr);
    words(text, origin);
  }

  // `origin` is that of PreTokenizer::split.
  void words(std::string_view text, size_t origin) {
    impl.normalized_tokens.split(text, which, [&](size_t begin, size_t end, const AddedToken* token) {
      if (token != nullptr) return ids.push_back(token->id);
      Words cut;
      impl.file.pre_tokenizer.split(text.substr(begin, end - begin), origin - std::min(origin, begin), cut);
      for (const std::string_view word : cut.list) impl.file.bpe->encode(word, scratch, ids);
    });
  }
};

Tokenizer Tokenizer::from_file(const std::string& path) {
  return from_json(read_text_file(path, size_t{256} << 20), path);
}

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& where) {
  auto impl = std::make_shared<Impl>();
  impl->file = read_tokenizer_file(json, where);
  const TokenizerFile& file = impl->file;
  std::vector<AddedToken> raw;
  std::vector<AddedToken> normalized;
  impl->added_vocab = Vocab(file.added.size());
  for (const AddedToken& token : file.added) {
    impl->added_vocab.add(token.content, token.id);
    if (token.special) {
      const auto end = static_cast<size_t>(token.id) + 1;
      impl->special.resize(std::max(impl->special.size(), end));
      impl->special[end - 1] = true;
    }
    AddedToken matched = token;
    if (token.normalized) matched.content = file.normalizer.apply(token.content);
    if (!matched.content.empty()) (token.normalized ? normalized : raw).push_back(std::move(matched));
  }
  impl->raw_tokens = AddedTokens(std::move(raw));
  impl->normalized_tokens = AddedTokens(std::move(normalized));
  const BpeOptions& options = file.bpe->options();
  impl->kind = options.byte_level ? "byte-level BPE" : options.byte_fallback ? "BPE with byte fallback" : "BPE";
  for (const std::vector<int32_t>* side : {&file.before, &file.after}) {
    for (const int32_t id : *side) {
      if (!impl->has(id)) fail(ErrorKind::kInput, "{}: post_processor: id {} is no token", where, id);
    }
  }
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::bytes() {
  Vocab vocab(256);
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    vocab.add(to_byte_alphabet(std::string_view(&byte, 1)), b);
  }
  auto impl = std::make_shared<Impl>();
  BpeOptions options;
  options.byte_level = true;
  impl->file.bpe = std::make_unique<Bpe>(std::move(vocab), options, "bytes");
  impl->file.pre_tokenizer =
      PreTokenizer(Json{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}, "bytes");
  impl->file.decoder = Decoder(Json{{"type", "ByteLevel"}}, "bytes");
  impl->kind = "bytes";
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special, bool parse_special) const {
  Impl::Run run{*impl_, parse_special ? Added::kAll : Added::kNotSpecial, true, Bpe::Scratch(text.size())};
  run.ids.reserve(text.size() / 3 + 16);
  if (add_special) run.ids = impl_->file.before;
  run.text(text);
  if (add_special) run.ids.insert(run.ids.end(), impl_->file.after.begin(), impl_->file.after.end());
  return std::move(run.ids);
}

std::vector<int32_t> Tokenizer::encode_inner(std::string_view text) const {
  Impl::Run run{*impl_, Added::kNotControl, false, Bpe::Scratch(text.size())};
  run.text(text);
  return std::move(run.ids);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  Decoder::Stream stream(impl_->file.decoder);
  std::string out;
  for (const int32_t id : ids) {
    if (impl_->has(id) && !(skip_special && impl_->is_special(id))) stream.push(impl_->token(id), out);
  }
  stream.flush(out);
  return out;
}

std::string Tokenizer::decode_bytes(std::span<const int32_t> ids, bool skip_special) const {
  if (!impl_->file.decoder.byte_level()) return decode(ids, skip_special);
  std::string out;
  for (const int32_t id : ids) {
    if (!impl_->has(id) || (skip_special && impl_->is_special(id))) continue;
    append_from_byte_alphabet(out, impl_->token(id));
  }
  return out;
}

int64_t Tokenizer::vocab_size() const {
  return std::max(impl_->added_vocab.id_end(), impl_->file.bpe->vocab().id_end());
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  int32_t id = impl_->added_vocab.find(token);
  if (id == kNoToken) id = impl_->file.bpe->vocab().find(token);
  return id == kNoToken ? std::nullopt : std::optional<int32_t>(id);
}

std::string Tokenizer::token_text(int64_t id) const { return std::string(impl_->token(id)); }

bool Tokenizer::is_special(int64_t id) const { return impl_->is_special(id); }

TokenizerSummary Tokenizer::summary() const {
  TokenizerSummary out;
  const Vocab& vocab = impl_->file.bpe->vocab();
  out.kind = impl_->kind;
  out.vocab_size = vocab_size();
  out.tokens = static_cast<int64_t>(vocab.size());
  for (const AddedToken& token : impl_->file.added) {
    out.tokens += vocab.has(token.id) ? 0 : 1;
    out.special += token.special ? 1 : 0;
  }
  out.merges = static_cast<int64_t>(impl_->file.bpe->merge_count());
  out.added = static_cast<int64_t>(impl_->file.added.size());
  return out;
}

struct StreamDecoder::Pending {
  Tokenizer tokenizer;
  bool skip_special;
  Decoder::Stream stream;
  std::string known;  // what the stream held after follow(), as far as it has not come out

  /// Takes off the start of `out` what is known. What begins otherwise is a character that only the next ids made.
  void leave_out(std::string& out) {
    const size_t count = std::min(out.size(), known.size());
    if (count == 0) return;
    const bool same = out.compare(0, count, known, 0, count) == 0;
    if (same) out.erase(0, count);
    known.erase(0, same ? count : known.size());
  }
};

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special) {
  const Decoder& decoder = tokenizer.impl_->file.decoder;  // lives as long as any copy of the tokenizer
  pending_.reset(new Pending{std::move(tokenizer), skip_special, Decoder::Stream(decoder), {}});
}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  const Tokenizer::Impl& impl = *pending_->tokenizer.impl_;
  std::string out;
  if (impl.has(id) && !(pending_->skip_special && impl.is_special(id))) pending_->stream.push(impl.token(id), out);
  pending_->leave_out(out);
  return out;
}

std::string StreamDecoder::flush() {
  std::string out;
  pending_->stream.flush(out);
  pending_->leave_out(out);
  pending_->known.clear();
  return out;
}

void StreamDecoder::follow(std::span<const int32_t> ids) {
  for (const int32_t id : ids) push(id);
  pending_->known.clear();
  Decoder::Stream ended = pending_->stream;
  ended.flush(pending_->known);
}

}  // namespace carousel::text
