// SPDX-License-Identifier: Apache-2.0
// A source is what one --data names: its files end to end, cut into rows of S pairs. A pair is an id and the id after
// it in the same document: an input and its target. Documents lie end to end, so a row is a list of pieces, each from
// one document, and only the last row of a source is shorter than S. Nothing is padded, no pair is left out; a document
// that is cut goes on in the next row with the id that was the last target.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "carousel/train/data_path.h"
#include "carousel/train/documents.h"
#include "carousel/train/token_cache.h"
#include "carousel/train/vocabulary.h"

namespace carousel::train {

/// Which documents of a file are taken.
enum class Side {
  kAll,
  kTrain,  // those that validation does not take
  kValid,  // a fraction, chosen by a hash of the document
};

struct SourceOptions {
  ReadOptions read;
  Side side = Side::kAll;
  double valid_fraction = 0;  // of the documents, for kTrain and kValid
  std::string cache_folder;   // made where it is not there
  /// Told the path before a file is read, as it has no cache yet. May throw to stop. Empty: nobody is told.
  std::function<void(const std::string& path)> reading;
};

struct Row {
  struct Piece {
    int source = 0, file = 0;  // places of the source, and of the file in it
    int64_t document = 0;      // the document's place among those taken from the file
  };
  std::vector<int32_t> tokens;   // [T] inputs, T <= S
  std::vector<int32_t> targets;  // [T]; -1: the loss does not count it
  std::vector<int64_t> lengths;  // rows of each piece; their sum is T
  std::vector<Piece> pieces;     // beside lengths
  // With carried states:
  int64_t lane = 0;        // rows of one lane follow each other
  bool continues = false;  // the first piece starts from the last state that the lane kept, not from zero
  bool goes_on = false;    // the lane must keep the state after the last piece
};

class Source {
 public:
  /// Reads the files, or maps the caches of those that were read before. Throws Error(kIo, kInput): a file that cannot
  /// be read, no document, another tokenizer's cache.
  Source(const std::string& path, const SourceOptions& options, const Vocabulary& vocabulary);

  int64_t documents() const;
  int64_t pairs() const { return first_pair_.back(); }
  int64_t rows(int64_t seq) const { return (pairs() + seq - 1) / seq; }
  const std::string& file(int i) const { return paths_[static_cast<size_t>(i)]; }

  /// Whether a document is cut at the beginning of a row.
  bool is_cut(int64_t row, int64_t seq) const;
  /// Appends the pieces of a row. `source` is kept in them.
  void append(int64_t row, int64_t seq, int source, Row& out) const;
  /// Gives the mapped pages back.
  void release() const;

 private:
  /// Where a pair is.
  struct Place {
    size_t file = 0;
    int64_t pair = 0;  // in the file
  };
  Place place_of(int64_t pair) const;

  std::vector<std::string> paths_;
  std::vector<TokenCache> caches_;      // of the files that hold a pair, beside paths_
  std::vector<int64_t> first_pair_{0};  // of each file, and the number of all pairs
};

}  // namespace carousel::train
