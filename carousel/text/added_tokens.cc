// SPDX-License-Identifier: Apache-2.0
// A trie of added tokens, and the walk that splits a text at them.
#include "carousel/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

size_t total_size(const std::vector<AddedToken>& tokens) {
  size_t total = 1;
  for (const AddedToken& token : tokens) total += token.content.size();
  return total;
}

size_t previous_character(std::string_view text, size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

bool word_before(std::string_view text, size_t pos) {
  if (pos == 0) return false;
  const Decoded before = decode_utf8(text, previous_character(text, pos));
  return before.valid && is_word(before.code);
}

bool word_after(std::string_view text, size_t pos) {
  if (pos == text.size()) return false;
  const Decoded after = decode_utf8(text, pos);
  return after.valid && is_word(after.code);
}

size_t skip_space_left(std::string_view text, size_t pos, size_t limit) {
  while (pos > limit) {
    const size_t before = previous_character(text, pos);
    const Decoded character = decode_utf8(text, before);
    if (before < limit || !character.valid || !is_space(character.code)) break;
    pos = before;
  }
  return pos;
}

size_t skip_space_right(std::string_view text, size_t pos) {
  while (pos < text.size()) {
    const Decoded character = decode_utf8(text, pos);
    if (!character.valid || !is_space(character.code)) break;
    pos += character.size;
  }
  return pos;
}

bool spelled_as_control(std::string_view content) {
  return (content.front() == '<' && content.back() == '>') || (content.front() == '[' && content.back() == ']');
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), edges_(total_size(tokens_)), token_(1, -1), first_(256, 0) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    uint64_t node = 0;
    for (const char c : tokens_[t].content) {
      const uint64_t edge = (node << 8) | static_cast<unsigned char>(c);
      uint64_t next = edges_.find(edge);
      if (next == PairMap::kAbsent) {
        next = token_.size();
        edges_.put(edge, next);
        token_.push_back(-1);
        if (node == 0) first_[static_cast<unsigned char>(c)] = static_cast<uint32_t>(next);
      }
      node = next;
    }
    if (token_[node] < 0) token_[node] = static_cast<int32_t>(t);
  }
}

const AddedToken* AddedTokens::longest_at(std::string_view text, size_t pos, size_t* size) const {
  uint64_t node = first_[static_cast<unsigned char>(text[pos])];
  int32_t best = -1;
  for (size_t i = pos + 1; node != PairMap::kAbsent; ++i) {
    if (token_[node] >= 0) {
      best = token_[node];
      *size = i - pos;
    }
    if (i == text.size()) break;
    node = edges_.find((node << 8) | static_cast<unsigned char>(text[i]));
  }
  return best < 0 ? nullptr : &tokens_[static_cast<size_t>(best)];
}

void AddedTokens::split(std::string_view text, Added which,
                        const std::function<void(size_t, size_t, const AddedToken*)>& segment) const {
  size_t done = 0;
  size_t pos = 0;
  while (pos < text.size() && !tokens_.empty()) {
    size_t size = 0;
    const AddedToken* token =
        first_[static_cast<unsigned char>(text[pos])] != 0 ? longest_at(text, pos, &size) : nullptr;
    if (token == nullptr) {
      ++pos;
      continue;
    }
    size_t begin = pos;
    size_t end = pos + size;
    pos = end;  // a match that its flags refuse is passed over whole
    if (which != Added::kAll && token->special) continue;
    if (which == Added::kNotControl && spelled_as_control(token->content)) continue;
    if (token->single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (token->lstrip) begin = skip_space_left(text, begin, std::min(done, begin));
    if (token->rstrip) end = skip_space_right(text, std::max(end, done));  // up to done is known to be space
    if (begin > done) segment(done, begin, nullptr);
    segment(begin, end, token);
    done = std::max(done, end);
  }
  if (done < text.size()) segment(done, text.size(), nullptr);
}

}  // namespace carousel::text
