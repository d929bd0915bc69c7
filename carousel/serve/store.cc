// SPDX-License-Identifier: Apache-2.0
// Three lanes to one shelf: what is written, what is read, and short questions, so that none of them waits for another.
//
// 1. An id is in coming_ from put() until its state is written. remove() marks it there instead of removing it. The
//    lane of writes alone takes an id out; one that is marked it removes from the shelf first. A state that is marked
//    is not found any more.
// 2. No lane touches the shelf under mutex_, so the owner's thread never waits for a shelf.
// 3. What is told is posted; nothing is told twice.
#include "carousel/serve/store.h"

#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"

namespace carousel::serve {
namespace {

constexpr size_t kHeaderBytes = 16 << 10;  // more than what a state takes beside its tensors and its answer
constexpr auto kSweepEvery = std::chrono::seconds(30);
constexpr int kNiceness = 10;  // of the lane of writes: streams come first

size_t room_of(const KeptState& kept) {
  return kept.bytes + kHeaderBytes + (kept.answer.is_null() ? 0 : text_of(kept.answer).size());
}

/// Runs `work`, and says what went wrong in it; kNoError: nothing.
template <class Work>
HttpError attempt(const Work& work) {
  try {
    work();
    return kNoError;
  } catch (const HttpError& error) {
    return error;
  } catch (const std::exception& error) {
    return {500, fmt::format("the store failed: {}", error.what()), "", "", {}};
  }
}

}  // namespace

Store::Store(std::unique_ptr<Shelf> shelf, const StoreOptions& options, const model::Model& model, Post post)
    : options_(options),
      model_(model),
      post_(std::move(post)),
      shelf_(std::move(shelf)),
      asks_(Lane::Rest::kDrop),
      reads_(Lane::Rest::kDrop),
      writes_(
          Lane::Rest::kRun, kSweepEvery, [this] { sweep(); }, kNiceness) {
  sweep();
}

void Store::check_room(size_t bytes) const {
  const size_t all = this->bytes() + bytes + kHeaderBytes;
  if (all <= options_.most_bytes) return;
  throw full_error(
      fmt::format("the stored states would take {} bytes, expected at most {}; delete some", all, options_.most_bytes));
}

void Store::put(std::shared_ptr<const KeptState> kept, Told done) {
  const size_t bytes = room_of(*kept);
  coming_bytes_ += bytes;
  {
    const std::lock_guard lock(mutex_);
    coming_[kept->id] = false;
  }
  writes_.add([this, kept = std::move(kept), bytes, done = std::move(done)] { write(*kept, bytes, done); });
}

bool Store::is_unwanted(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = coming_.find(id);
  return found != coming_.end() && found->second;
}

void Store::write(const KeptState& kept, size_t bytes, const Told& done) {
  HttpError wrong = kNoError;
  if (!is_unwanted(kept.id)) wrong = attempt([&] { used_bytes_ += shelf_->write(kept); });
  coming_bytes_ -= bytes;
  bool unwanted = false;
  {
    const std::lock_guard lock(mutex_);
    unwanted = coming_[kept.id];
    if (!unwanted) coming_.erase(kept.id);
  }
  if (unwanted) {
    wrong = removed_error(kept.id);
    attempt([&] { drop(kept.id); });
    const std::lock_guard lock(mutex_);
    coming_.erase(kept.id);
  }
  post_([done, wrong] { done(wrong); });
}

void Store::load(const std::string& id, Loaded then) {
  reads_.add([this, id, then = std::move(then)] { read(id, then); });
}

void Store::read(const std::string& id, const Loaded& then) {
  std::shared_ptr<KeptState> kept;
  const HttpError wrong = attempt([&] { kept = fetch(id); });
  post_([then, kept, wrong] { then(kept, wrong); });
}

/// Throws HttpError: 404 where the state is not there, 422 where its file is damaged.
std::shared_ptr<KeptState> Store::fetch(const std::string& id) {
  if (const std::optional<StateCard> card = find(id)) {
    try {
      if (std::optional<model::SavedState> saved = shelf_->read(id)) {
        return std::make_shared<KeptState>(KeptState{*card, std::move(*saved)});
      }
    } catch (const Error& error) {
      throw HttpError{422, error.what(), "state", "state_refused", {}};
    }
  }
  throw HttpError{404, fmt::format("state: \"{}\" is not kept here", id), "state", "state_not_found", {}};
}

std::optional<StateCard> Store::card_of(const std::string& id, const std::string& manifest) const {
  std::string fingerprint;
  std::optional<StateCard> card = read_manifest(manifest, id, fingerprint);
  if (card && (fingerprint != model_.fingerprint || card->expired())) card.reset();
  return card;
}

/// Throws HttpError where the shelf does not say.
std::optional<StateCard> Store::find(const std::string& id) {
  if (!is_id(id) || is_unwanted(id)) return {};
  const std::optional<std::string> manifest = shelf_->manifest(id);
  return manifest ? card_of(id, *manifest) : std::nullopt;
}

void Store::look(const std::string& id, int64_t tokens, Looked then) {
  asks_.add([this, id, tokens, then = std::move(then)] {
    std::vector<Card> cards;
    const auto is_known = [&](const std::string& next) {
      return std::any_of(cards.begin(), cards.end(), [&](const Card& card) { return card.first == next; });
    };
    const HttpError wrong = attempt([&] {
      for (std::string next = id; !next.empty() && !is_known(next);) {
        const std::optional<StateCard> card = find(next);
        cards.emplace_back(next, card);
        next = card && card->tokens > tokens ? card->parent : "";
      }
    });
    post_([then, cards = std::move(cards), wrong] { then(cards, wrong); });
  });
}

void Store::list(Looked then) {
  asks_.add([this, then = std::move(then)] {
    std::vector<Card> cards;
    const HttpError wrong = attempt([&] {
      for (const auto& [id, manifest] : shelf_->manifests()) {
        std::optional<StateCard> card = is_unwanted(id) ? std::nullopt : card_of(id, manifest);
        if (card) cards.emplace_back(id, std::move(card));
      }
    });
    post_([then, cards = std::move(cards), wrong] { then(cards, wrong); });
  });
}

void Store::remove(const std::string& id, Told done) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = coming_.find(id);
    if (found != coming_.end()) {
      found->second = true;
      return post_([done = std::move(done)] { done(kNoError); });
    }
  }
  asks_.add([this, id, done = std::move(done)] {
    const HttpError wrong = attempt([&] { drop(id); });
    post_([done, wrong] { done(wrong); });
  });
}

void Store::drop(const std::string& id) {
  const size_t bytes = shelf_->remove(id);
  size_t used = used_bytes_;
  while (!used_bytes_.compare_exchange_weak(used, used - std::min(bytes, used))) {
  }
}

/// A shelf that cannot be read now is counted another time.
void Store::sweep() {
  attempt([&] { used_bytes_ = shelf_->sweep(); });
}

}  // namespace carousel::serve
