// SPDX-License-Identifier: Apache-2.0
// Rows of features with targets, for models that are no language models (cfc, ltc). Files are read whole into memory:
// they hold sequences of one length, [T, I] or [B, T, I], as `carousel predict` takes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/core/tensor.h"
#include "carousel/train/row_order.h"
#include "carousel/train/source.h"

namespace carousel::train {

struct FeatureFiles {
  std::string data;    // features: [T, I] or [B, T, I]
  std::string target;  // [T, O] or [B, T, O]
  std::string times;   // time before each row: [T] or [B, T]; empty: 1 everywhere
};

/// The files that patterns and folders mean, sorted by name: those of `data` each with that of `target` and of `times`
/// in the same place. Only .csv and .npy count. Throws Error(kIo, kInput): there is none, or their numbers differ.
std::vector<FeatureFiles> list_feature_files(const FeatureFiles& named);

struct FeatureOptions {
  std::vector<FeatureFiles> files;
  Side side = Side::kAll;
  double valid_fraction = 0;  // of the sequences, chosen by a hash of their features
  int64_t seq = 512;          // S: rows of a sequence are taken so many at a time
  char decimal = '.';         // of .csv
  OrderOptions order;
};

/// A part of one sequence, as it lies in memory.
struct FeatureRow {
  int64_t length = 0;             // T <= S
  const float* x = nullptr;       // [T, I]
  const float* target = nullptr;  // [T, O]
  const float* times = nullptr;   // [T]; null: 1 everywhere
  int64_t lane = 0;               // lane, continues, goes_on: as in Row
  bool continues = false;
  bool goes_on = false;
  int64_t sequence = 0;  // among those taken
  int64_t first = 0;     // the sequence's row that it begins with
};

class FeatureData {
 public:
  /// I and O are those of the model. Throws Error(kIo, kInput): shapes that do not fit, no sequence, values that are
  /// not finite, times below 0.
  FeatureData(const FeatureOptions& options, int64_t inputs, int64_t outputs);

  int64_t rows() const { return order_.rows(); }    // of an epoch
  int64_t lanes() const { return order_.lanes(); }  // states to keep, if they are carried
  int64_t sequences() const { return static_cast<int64_t>(sequences_.size()); }
  /// The row at `place` of `epoch`, 0 <= place < rows().
  FeatureRow row(int64_t epoch, int64_t place) const;
  /// "sine.npy: sequence 3, rows 1 to 48", for messages.
  std::string describe(const FeatureRow& row) const;

 private:
  struct File {
    std::string path;
    Tensor x, target, times;  // [B, T, I], [B, T, O], [B, T] or undefined
  };
  struct Sequence {
    size_t file = 0;
    int64_t number = 0;     // in the file
    int64_t first_row = 0;  // the number of its first row
  };
  /// The sequence that holds a row, by the row's number.
  const Sequence& sequence_of(int64_t number) const;

  int64_t seq_;
  std::vector<File> files_;
  std::vector<Sequence> sequences_;
  RowOrder order_;
};

}  // namespace carousel::train
