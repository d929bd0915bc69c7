// SPDX-License-Identifier: Apache-2.0
// Rows put end to end.
#include "carousel/train/batches.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace carousel::train {

Batch TokenBatches::take(int64_t first, int64_t count) {
  Batch batch;
  for (int64_t r = first; r < first + count; ++r) {
    data_.row(r / rows(), r % rows(), row_);
    batch.tokens.insert(batch.tokens.end(), row_.tokens.begin(), row_.tokens.end());
    batch.targets.insert(batch.targets.end(), row_.targets.begin(), row_.targets.end());
    const auto begin = static_cast<int64_t>(batch.lengths.size());
    batch.lengths.insert(batch.lengths.end(), row_.lengths.begin(), row_.lengths.end());
    const auto end = static_cast<int64_t>(batch.lengths.size());
    batch.rows.push_back({begin, end, row_.lane, row_.continues, row_.goes_on, r});
  }
  return batch;
}

std::string TokenBatches::describe(int64_t first, int64_t count) {
  std::vector<Row> rows_of(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    data_.row((first + i) / rows(), (first + i) % rows(), rows_of[static_cast<size_t>(i)]);
  }
  return data_.describe(rows_of);
}

Batch FeatureBatches::take(int64_t first, int64_t count) {
  std::vector<FeatureRow> taken;
  int64_t total = 0;
  bool timed = false;
  for (int64_t r = first; r < first + count; ++r) {
    taken.push_back(data_.row(r / rows(), r % rows()));
    total += taken.back().length;
    timed = timed || taken.back().times != nullptr;
  }
  Batch batch;
  batch.features = Tensor({total, inputs_}, DType::kF32);
  batch.wanted = Tensor({total, outputs_}, DType::kF32);
  if (timed) batch.elapsed = Tensor({total}, DType::kF32);
  int64_t at = 0, number = first;
  for (const FeatureRow& row : taken) {
    std::copy(row.x, row.x + row.length * inputs_, batch.features.f32() + at * inputs_);
    std::copy(row.target, row.target + row.length * outputs_, batch.wanted.f32() + at * outputs_);
    for (int64_t t = 0; t < row.length && timed; ++t)
      batch.elapsed.f32()[at + t] = row.times != nullptr ? row.times[t] : 1;
    const auto sequence = static_cast<int64_t>(batch.lengths.size());
    batch.lengths.push_back(row.length);
    batch.rows.push_back({sequence, sequence + 1, row.lane, row.continues, row.goes_on, number++});
    at += row.length;
  }
  return batch;
}

std::string FeatureBatches::describe(int64_t first, int64_t count) {
  std::string out;
  for (int64_t r = first; r < first + count; ++r) {
    out += (out.empty() ? "" : "; ") + data_.describe(data_.row(r / rows(), r % rows()));
  }
  return out;
}

}  // namespace carousel::train
