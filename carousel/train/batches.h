// SPDX-License-Identifier: Apache-2.0
// Rows of the data as batches. A run takes rows 0, 1, 2, ...: row r is place r % rows of epoch r / rows, so a counter
// is all that a resumed run needs to know.
#pragma once

#include <cstdint>
#include <string>

#include "carousel/train/data.h"
#include "carousel/train/features.h"
#include "carousel/train/objective.h"

namespace carousel::train {

class Batches {
 public:
  virtual ~Batches() = default;
  virtual int64_t rows() const = 0;   // of an epoch
  virtual int64_t lanes() const = 0;  // states to keep, if they are carried
  /// Rows first to first + count of a run.
  virtual Batch take(int64_t first, int64_t count) = 0;
  /// The documents of these rows, for messages.
  virtual std::string describe(int64_t first, int64_t count) = 0;
};

/// Batches of tokens. `data` outlives this.
class TokenBatches : public Batches {
 public:
  explicit TokenBatches(Data& data) : data_(data) {}
  int64_t rows() const override { return data_.rows(); }
  int64_t lanes() const override { return data_.lanes(); }
  Batch take(int64_t first, int64_t count) override;
  std::string describe(int64_t first, int64_t count) override;

 private:
  Data& data_;
  Row row_;
};

/// Batches of features. `data` outlives this.
class FeatureBatches : public Batches {
 public:
  FeatureBatches(const FeatureData& data, int64_t inputs, int64_t outputs)
      : data_(data), inputs_(inputs), outputs_(outputs) {}
  int64_t rows() const override { return data_.rows(); }
  int64_t lanes() const override { return data_.lanes(); }
  Batch take(int64_t first, int64_t count) override;
  std::string describe(int64_t first, int64_t count) override;

 private:
  const FeatureData& data_;
  int64_t inputs_, outputs_;
};

}  // namespace carousel::train
