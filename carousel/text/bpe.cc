// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding: symbols of a word, merges by scanning or by a heap, and a cache of words.
#include "carousel/text/bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

constexpr size_t kShortWord = 40;  // symbols up to which scanning all pairs beats the heap

uint64_t pair_of(char32_t a, char32_t b) { return (static_cast<uint64_t>(a) << 32) | b; }

size_t last_character(std::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80) --pos;
  return pos;
}

}  // namespace

PairMap::PairMap(size_t count) {
  size_t slots = 16;
  while (slots < count * 2) slots *= 2;
  resize(slots);
}

void PairMap::resize(size_t slots) {
  slots_.assign(slots, Slot());
  count_ = 0;
  mask_ = slots - 1;
  shift_ = 64;
  for (size_t s = slots; s > 1; s /= 2) --shift_;
}

void PairMap::put(uint64_t pair, uint64_t value) {
  if ((count_ + 1) * 2 > slots_.size()) {
    const std::vector<Slot> old = std::move(slots_);
    resize(old.size() * 2);
    for (const Slot& slot : old) {
      if (slot.pair != kAbsent) put(slot.pair, slot.value);
    }
  }
  size_t i = start(pair);
  while (slots_[i].pair != kAbsent && slots_[i].pair != pair) i = (i + 1) & mask_;
  count_ += slots_[i].pair == kAbsent ? 1 : 0;
  slots_[i] = {pair, value};
}

Bpe::Bpe(Vocab vocab, BpeOptions options, const std::string& where)
    : vocab_(std::move(vocab)),
      options_(std::move(options)),
      where_(where),
      merges_(vocab_.size()),
      crossings_(0),
      byte_ids_(256, kNoToken) {
  if (options_.unk_token) {
    unk_ = vocab_.find(*options_.unk_token);
    if (unk_ == kNoToken) fail(ErrorKind::kInput, "{}: unk_token \"{}\" is not in vocab", where, *options_.unk_token);
  }
  const bool plain = options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
  all_bytes_ = (options_.byte_level && plain) || options_.byte_fallback;
  for (int b = 0; b < 256 && all_bytes_; ++b) {
    const char byte = static_cast<char>(b);
    const std::string name =
        options_.byte_level ? to_byte_alphabet(std::string_view(&byte, 1)) : fmt::format("<0x{:02X}>", b);
    byte_ids_[static_cast<size_t>(b)] = vocab_.find(name);
  }
  for (const int32_t id : byte_ids_) all_bytes_ = all_bytes_ && id != kNoToken;
}

void Bpe::add_merge(std::string_view a, std::string_view b) {
  const int32_t left = vocab_.find(a);
  const int32_t right = vocab_.find(b);
  const size_t prefix = options_.continuing_subword_prefix.size();
  const bool known = left != kNoToken && right != kNoToken && b.size() >= prefix;
  const std::string made = std::string(a).append(known ? b.substr(prefix) : b);
  // Most files give the tokens that merges make in the order of the merges: the next id is tried before a search.
  const bool next = known && last_made_ != kNoToken && !made.empty() && vocab_.text(last_made_ + 1) == made;
  const int32_t id = next ? last_made_ + 1 : known ? vocab_.find(made) : kNoToken;
  last_made_ = id;
  if (id == kNoToken) {
    const std::string_view missing = left == kNoToken ? a : right == kNoToken ? b : made;
    fail(ErrorKind::kInput, "{}: merge {} (\"{}\", \"{}\"): \"{}\" is not in vocab", where_, merge_count_,
         a.substr(0, 60), b.substr(0, 60), missing.substr(0, 60));
  }
  merges_.put((static_cast<uint64_t>(left) << 32) | static_cast<uint64_t>(right),
              (static_cast<uint64_t>(merge_count_++) << 32) | static_cast<uint64_t>(id));
  if (options_.byte_level || a.empty() || b.empty()) return;
  crossings_.put(pair_of(decode_utf8(a, last_character(a)).code, decode_utf8(b, 0).code), 1);
  const auto special = [&](int32_t part) {
    return part == unk_ || std::find(byte_ids_.begin(), byte_ids_.end(), part) != byte_ids_.end();
  };
  const auto spelled = [](std::string_view part) { return part.size() == 6 && part.substr(0, 3) == "<0x"; };
  bytes_merge_ = bytes_merge_ || ((spelled(a) || left == unk_) && special(left)) ||
                 ((spelled(b) || right == unk_) && special(right));
}

void Bpe::finish() {
  seams_ = !options_.byte_level && !bytes_merge_ && options_.continuing_subword_prefix.empty() &&
           options_.end_of_word_suffix.empty();
}

// True where no merge can join a symbol that ends with the character at `before` to one that begins with the character
// at `at`: the two sides are then words of their own. Beside an unknown character it is true only if unknown characters
// always become bytes, which never fuse.
bool Bpe::seam(std::string_view word, size_t before, size_t at, size_t size) const {
  const Decoded left = decode_utf8(word, before);
  const Decoded right = decode_utf8(word, at);
  if (crossings_.find(pair_of(left.code, right.code)) != PairMap::kAbsent) return false;
  if (all_bytes_) return true;
  return vocab_.find(word.substr(before, at - before)) != kNoToken && vocab_.find(word.substr(at, size)) != kNoToken;
}

Bpe::Scratch::Scratch(size_t text_size) {
  size_t slots = 64;
  while (slots < 16384 && slots * 64 < text_size) slots *= 2;
  words_.resize(slots);
}

void Bpe::encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  if (options_.byte_level) return encode_cached(word, scratch, out);
  if (options_.ignore_merges) {
    if (const int32_t id = vocab_.find(word); id != kNoToken) return out.push_back(id);
  }
  if (!seams_) return encode_cached(word, scratch, out);
  size_t begin = 0;
  size_t before = 0;
  for (size_t at = decode_utf8(word, 0).size; at < word.size();) {
    const size_t size = decode_utf8(word, at).size;
    if (seam(word, before, at, size)) {
      encode_cached(word.substr(begin, at - begin), scratch, out);
      begin = at;
    }
    before = at;
    at += size;
  }
  encode_cached(word.substr(begin), scratch, out);
}

void Bpe::encode_cached(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (word.size() > Scratch::kKey) return encode_word(word, scratch, out);
  const size_t slot = XXH3_64bits(word.data(), word.size()) & (scratch.words_.size() - 1);
  Scratch::Word& known = scratch.words_[slot];
  if (known.count > 0 && known.size == word.size() && std::memcmp(known.key, word.data(), word.size()) == 0) {
    out.insert(out.end(), known.ids, known.ids + known.count);
    return;
  }
  const size_t begin = out.size();
  encode_word(word, scratch, out);
  const size_t count = out.size() - begin;
  if (count == 0 || count > Scratch::kIds) return;
  known.size = static_cast<uint8_t>(word.size());
  known.count = static_cast<uint8_t>(count);
  std::memcpy(known.key, word.data(), word.size());
  std::copy_n(out.data() + begin, count, known.ids);
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (options_.byte_level && (options_.ignore_merges || !all_bytes_)) {
    scratch.spelled_ = to_byte_alphabet(word);
    const int32_t id = options_.ignore_merges ? vocab_.find(scratch.spelled_) : kNoToken;
    if (id != kNoToken) return out.push_back(id);
  }
  std::vector<int32_t>& symbols = scratch.symbols_;
  symbols.clear();
  if (options_.byte_level && all_bytes_) {
    for (const char c : word) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  } else {
    start_symbols(options_.byte_level ? std::string_view(scratch.spelled_) : word, symbols);
  }
  if (symbols.size() <= kShortWord) {
    merge_short(symbols);
  } else {
    merge_long(symbols, scratch);
  }
  out.insert(out.end(), symbols.begin(), symbols.end());
}

// One symbol per character; an unknown character becomes bytes, or unk_token, or nothing. As in the reference library,
// an unk_token is written at the next known character, not at the next bytes.
void Bpe::start_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  const bool plain = options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
  std::string spelled;
  bool pending = false;
  for (size_t pos = 0; pos < word.size();) {
    const size_t size = decode_utf8(word, pos).size;
    std::string_view character = word.substr(pos, size);
    if (!plain) {
      spelled = pos > 0 ? options_.continuing_subword_prefix : "";
      spelled.append(character).append(pos + size == word.size() ? options_.end_of_word_suffix : "");
      character = spelled;
    }
    pos += size;
    if (const int32_t id = vocab_.find(character); id != kNoToken) {
      if (pending) symbols.push_back(unk_);
      pending = false;
      symbols.push_back(id);
      continue;
    }
    if (options_.byte_fallback && add_bytes(character, symbols)) continue;
    if (unk_ == kNoToken) continue;
    if (pending && !options_.fuse_unk) symbols.push_back(unk_);
    pending = true;
  }
  if (pending) symbols.push_back(unk_);
}

bool Bpe::add_bytes(std::string_view character, std::vector<int32_t>& symbols) const {
  const size_t begin = symbols.size();
  for (const char c : character) {
    // In a byte-level vocabulary byte_ids_ holds the alphabet, so <0xHH> is looked up by name.
    const auto byte = static_cast<unsigned char>(c);
    const int32_t id = options_.byte_level ? vocab_.find(fmt::format("<0x{:02X}>", byte)) : byte_ids_[byte];
    if (id == kNoToken) {
      symbols.resize(begin);
      return false;
    }
    symbols.push_back(id);
  }
  return true;
}

void Bpe::merge_short(std::vector<int32_t>& symbols) const {
  uint64_t pairs[kShortWord];
  size_t count = symbols.size();
  int32_t* ids = symbols.data();
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = merge_of(ids[i], ids[i + 1]);
  while (count > 1) {
    const size_t best = static_cast<size_t>(std::min_element(pairs, pairs + count - 1) - pairs);
    if (pairs[best] == PairMap::kAbsent) break;
    ids[best] = static_cast<int32_t>(static_cast<uint32_t>(pairs[best]));
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      ids[i] = ids[i + 1];
      pairs[i - 1] = pairs[i];
    }
    if (best > 0) pairs[best - 1] = merge_of(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = merge_of(ids[best], ids[best + 1]);
  }
  symbols.resize(count);
}

// A linked list of symbols and a heap of rank << 32 | position. An entry whose pair has changed since is stale: its
// rank is no longer that of the pair at its position.
void Bpe::merge_long(std::vector<int32_t>& symbols, Scratch& scratch) const {
  if (symbols.size() > INT32_MAX) {
    fail(ErrorKind::kInput, "{}: word of {} symbols, expected at most {}", where_, symbols.size(), INT32_MAX);
  }
  const auto count = static_cast<int32_t>(symbols.size());
  std::vector<int32_t>& prev = scratch.prev_;
  std::vector<int32_t>& next = scratch.next_;
  std::vector<uint64_t>& heap = scratch.pairs_;
  prev.resize(symbols.size());
  next.resize(symbols.size());
  heap.clear();
  const auto at = [](int32_t i) { return static_cast<size_t>(i); };
  const auto merge_at = [&](int32_t i) {
    return next[at(i)] < count ? merge_of(symbols[at(i)], symbols[at(next[at(i)])]) : PairMap::kAbsent;
  };
  for (int32_t i = 0; i < count; ++i) {
    prev[at(i)] = i - 1;
    next[at(i)] = i + 1;
  }
  for (int32_t i = 0; i < count; ++i) {
    if (const uint64_t merge = merge_at(i); merge != PairMap::kAbsent) {
      heap.push_back((merge >> 32 << 32) | static_cast<uint32_t>(i));
    }
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t i) {
    const uint64_t merge = merge_at(i);
    if (merge == PairMap::kAbsent) return;
    heap.push_back((merge >> 32 << 32) | static_cast<uint32_t>(i));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto i = static_cast<int32_t>(static_cast<uint32_t>(top));
    if (symbols[at(i)] == kNoToken) continue;
    const uint64_t merge = merge_at(i);
    if (merge == PairMap::kAbsent || merge >> 32 != top >> 32) continue;
    const int32_t gone = next[at(i)];
    symbols[at(i)] = static_cast<int32_t>(static_cast<uint32_t>(merge));
    symbols[at(gone)] = kNoToken;
    next[at(i)] = next[at(gone)];
    if (next[at(i)] < count) prev[at(next[at(i)])] = i;
    if (prev[at(i)] >= 0) push(prev[at(i)]);
    push(i);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), kNoToken), symbols.end());
}

}  // namespace carousel::text
