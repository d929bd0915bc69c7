// SPDX-License-Identifier: Apache-2.0
// The rows of an epoch: shares of sources, and what continues what.
//
// The rows of an epoch have numbers: those of the first source, then those of the second, and so on. A place gives a
// number by the epoch's permutation, or by the lanes; a number gives a row of its source.
#include "carousel/train/data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/assert.h"
#include "carousel/core/error.h"
#include "carousel/train/permutation.h"

namespace carousel::train {
namespace {

constexpr uint64_t kPassStream = 0x7061;  // of Philox, in the high 16 bits

}  // namespace

Data::Data(const DataOptions& options, const Vocabulary& vocabulary) : options_(options) {
  if (options_.paths.empty()) fail(ErrorKind::kUsage, "--data: got none, expected a file, a folder or a pattern");
  CAROUSEL_ASSERT(options_.seq > 0);
  for (const DataPath& path : options_.paths) sources_.emplace_back(path.path, options_.source, vocabulary);
  share_rows();
}

void Data::share_rows() {
  int64_t all = 0;
  double weights = 0;
  for (size_t s = 0; s < sources_.size(); ++s) {
    all += sources_[s].rows(options_.seq);
    weights += options_.paths[s].weight > 0 ? options_.paths[s].weight : 1;
  }
  const bool weighted =
      std::any_of(options_.paths.begin(), options_.paths.end(), [](const DataPath& path) { return path.weight > 0; });
  int64_t end = 0;
  for (size_t s = 0; s < sources_.size(); ++s) {
    const double weight = options_.paths[s].weight > 0 ? options_.paths[s].weight : 1;
    const auto share = static_cast<int64_t>(std::llround(static_cast<double>(all) * (weight / weights)));
    end += weighted && sources_.size() > 1 ? std::max<int64_t>(1, share) : sources_[s].rows(options_.seq);
    ends_.push_back(end);
  }
  order_ = RowOrder(end, options_.order);
}

int64_t Data::documents() const {
  int64_t count = 0;
  for (const Source& source : sources_) count += source.documents();
  return count;
}

int64_t Data::pairs() const {
  int64_t count = 0;
  for (const Source& source : sources_) count += source.pairs();
  return count;
}

Data::Found Data::find(int64_t epoch, int64_t place) const {
  const int64_t number = order_.at(epoch, place);
  const auto s = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), number) - ends_.begin());
  const int64_t begin = s == 0 ? 0 : ends_[s - 1], share = ends_[s] - begin;
  const int64_t rows_there = sources_[s].rows(options_.seq);
  // The source's rows since the first epoch; it is gone through again and again.
  const int64_t count = epoch * share + number - begin, pass = count / rows_there, row = count % rows_there;
  if (order_.carries() || !order_.is_shuffled()) return {s, row};
  const uint64_t stream = kPassStream << 48 | static_cast<uint64_t>(s) << 32 | static_cast<uint32_t>(pass);
  return {s, Permutation(rows_there, order_.seed(), stream).at(row)};
}

bool Data::continues(int64_t epoch, int64_t place) const {
  if (!order_.carries() || place < lanes() || place >= rows()) return false;
  const Found before = find(epoch, place - lanes()), here = find(epoch, place);
  return before.source == here.source && before.row + 1 == here.row &&
         sources_[here.source].is_cut(here.row, options_.seq);
}

void Data::row(int64_t epoch, int64_t place, Row& out) {
  out.tokens.clear();
  out.targets.clear();
  out.lengths.clear();
  out.pieces.clear();
  const Found found = find(epoch, place);
  sources_[found.source].append(found.row, options_.seq, static_cast<int>(found.source), out);
  out.lane = order_.lane(place);
  out.continues = continues(epoch, place);
  out.goes_on = continues(epoch, place + lanes());
  // Pages that rows were read from count as the process's memory until they are given back: about 128 KiB a row, since
  // the system maps what lies around each.
  constexpr int64_t kRows = 64;
  if (++unreleased_ < kRows) return;
  for (const Source& source : sources_) source.release();
  unreleased_ = 0;
}

std::string Data::describe(std::span<const Row> rows) const {
  std::string out;
  Row::Piece first{-1, -1, -1}, last = first;
  const auto add = [&] {
    if (first.source < 0) return;
    const std::string& path = sources_[static_cast<size_t>(first.source)].file(first.file);
    const std::string range = first.document == last.document
                                  ? fmt::format("document {}", first.document + 1)
                                  : fmt::format("documents {} to {}", first.document + 1, last.document + 1);
    out += fmt::format("{}{}: {}", out.empty() ? "" : "; ", path, range);
  };
  for (const Row& row : rows) {
    for (const Row::Piece& piece : row.pieces) {
      const bool next = piece.source == last.source && piece.file == last.file &&
                        (piece.document == last.document || piece.document == last.document + 1);
      if (!next) {
        add();
        first = piece;
      }
      last = piece;
    }
  }
  add();
  return out;
}

}  // namespace carousel::train
