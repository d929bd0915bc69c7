// SPDX-License-Identifier: Apache-2.0
// The rows that a run trains on, by number. Row (epoch, place) is a function of the files, the options and the seed:
// nothing about the order is stored, and a resumed run asks for the next place.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "carousel/train/row_order.h"
#include "carousel/train/source.h"

namespace carousel::train {

struct DataOptions {
  std::vector<DataPath> paths;
  SourceOptions source;
  int64_t seq = 512;  // S: pairs of a row
  OrderOptions order;
};

/// Without weights an epoch takes every row of every source once. With weights (a source without one has 1) it has as
/// many rows, of which each source has its share; the sources go round at their own pace.
/// Not for use by two threads at once.
class Data {
 public:
  /// Throws as Source does.
  Data(const DataOptions& options, const Vocabulary& vocabulary);

  int64_t rows() const { return order_.rows(); }    // of an epoch
  int64_t documents() const;                        // of all sources
  int64_t pairs() const;                            // of all sources
  int64_t lanes() const { return order_.lanes(); }  // states to keep, if they are carried
  /// The row at `place` of `epoch`, 0 <= place < rows(), 0 <= epoch < 2^32. The vectors of `out` keep their capacity.
  void row(int64_t epoch, int64_t place, Row& out);
  /// The documents of rows, for messages: "stories.txt: documents 12 to 14; more.txt: document 1", counted from 1.
  std::string describe(std::span<const Row> rows) const;

 private:
  /// A row of a source.
  struct Found {
    size_t source = 0;
    int64_t row = 0;
  };
  Found find(int64_t epoch, int64_t place) const;
  bool continues(int64_t epoch, int64_t place) const;
  void share_rows();

  DataOptions options_;
  std::vector<Source> sources_;
  std::vector<int64_t> ends_;  // rows of an epoch up to and with each source
  RowOrder order_;
  int64_t unreleased_ = 0;  // rows since the mapped pages were given back
};

}  // namespace carousel::train
