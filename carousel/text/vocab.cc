// SPDX-License-Identifier: Apache-2.0
// The open-addressed table of token strings.
#include "carousel/text/vocab.h"

#include <xxhash.h>

#include <random>
#include <utility>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

uint32_t hash_of(std::string_view text) {
  return static_cast<uint32_t>(XXH3_64bits_withSeed(text.data(), text.size(), hash_salt()));
}

}  // namespace

uint64_t hash_salt() {
  static const uint64_t salt = [] {
    std::random_device source;
    return static_cast<uint64_t>(source()) << 32 | source();
  }();
  return salt;
}

Vocab::Vocab(size_t count) {
  size_t slots = 64;
  while (slots < count * 2) slots *= 2;
  slots_.resize(slots);
  spans_.reserve(count);
}

size_t Vocab::slot_of(std::string_view text, uint32_t hash) const {
  size_t i = hash & (slots_.size() - 1);
  while (slots_[i].id != kNoToken) {
    if (slots_[i].hash == hash && this->text(slots_[i].span) == text) return i;
    i = (i + 1) & (slots_.size() - 1);
  }
  return i;
}

Vocab::Added Vocab::add(std::string_view text, int32_t id) {
  CAROUSEL_ASSERT(id >= 0 && id <= kMaxTokenId && arena_.size() + text.size() < kHole);
  if ((count_ + 1) * 2 > slots_.size()) grow();
  const uint32_t hash = hash_of(text);
  Slot& slot = slots_[slot_of(text, hash)];
  if (slot.id != kNoToken) return slot.id == id ? Added::kNew : Added::kTextTaken;
  if (has(id)) return Added::kIdTaken;
  if (id >= id_end()) spans_.resize(static_cast<size_t>(id) + 1);
  spans_[static_cast<size_t>(id)] = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(text.size())};
  arena_.append(text);
  slot = {hash, id, spans_[static_cast<size_t>(id)]};
  ++count_;
  return Added::kNew;
}

void Vocab::grow() {
  const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(slots_.size() * 2));
  for (const Slot& slot : old) {
    if (slot.id != kNoToken) slots_[slot_of(text(slot.span), slot.hash)] = slot;
  }
}

int32_t Vocab::find(std::string_view text) const { return slots_[slot_of(text, hash_of(text))].id; }

std::string_view Vocab::text(int64_t id) const {
  if (!has(id)) return {};
  return text(spans_[static_cast<size_t>(id)]);
}

}  // namespace carousel::text
