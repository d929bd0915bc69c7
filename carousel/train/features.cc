// SPDX-License-Identifier: Apache-2.0
// Reads features and targets, and cuts sequences into rows.
#include "carousel/train/features.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/formats/number_table.h"

namespace carousel::train {
namespace {

/// [T, width] or [B, T, width], as [B, T, width]. One dimension will do for one column.
Tensor read_sequences(const std::string& path, int64_t width, const char* what, char decimal) {
  Tensor values = formats::read_numbers(path, decimal);
  const int rank = values.shape().rank();
  const std::string shape = values.shape().str();
  if (rank == 1 && width == 1) values = values.reshape(Shape{values.dim(0), 1});
  if (values.shape().rank() == 2) values = values.reshape(Shape{1, values.dim(0), values.dim(1)});
  if (values.shape().rank() == 3 && values.dim(2) == width) return values;
  fail(ErrorKind::kInput, "{}: shape {}, expected [T, {}] or [B, T, {}] ({} of the model)", path, shape, width, width,
       what);
}

void check_like(const std::string& path, const Tensor& got, const std::string& of, const Tensor& x) {
  if (got.dim(0) == x.dim(0) && got.dim(1) == x.dim(1)) return;
  fail(ErrorKind::kInput, "{}: {} x {} rows, expected {} x {} as in {}", path, got.dim(0), got.dim(1), x.dim(0),
       x.dim(1), of);
}

Tensor read_times(const std::string& path, const std::string& of, const Tensor& x, char decimal) {
  const Tensor values = formats::read_row_times(path, decimal, x.dim(0), x.dim(1), of);
  for (int64_t i = 0; i < values.count(); ++i) {
    if (values.f32()[i] >= 0) continue;
    fail(ErrorKind::kInput, "{}: time {} is {}, expected 0 or more", path, i, values.f32()[i]);
  }
  return values;
}

// As documents of text are chosen (source.cc): the hash knows no seed and no place.
bool is_valid(const float* x, int64_t count, double fraction) {
  const uint64_t hash = XXH3_64bits(x, static_cast<size_t>(count) * sizeof(float));
  return static_cast<double>(hash >> 11) * 0x1p-53 < fraction;
}

std::vector<std::string> feature_paths(const std::string& path) {
  if (file_exists(path) && !is_folder(path)) return {path};
  std::vector<std::string> paths;
  for (const DataFile& file : list_files(path)) {
    if (file.kind == FileKind::kCsv || file.kind == FileKind::kNpy) paths.push_back(file.path);
  }
  if (paths.empty()) fail(ErrorKind::kInput, "{}: got no .csv or .npy, expected files of features", path);
  return paths;
}

void check_count(const std::string& path, const std::vector<std::string>& got, const std::string& of, size_t expected) {
  if (got.size() == expected) return;
  fail(ErrorKind::kInput, "{}: got {} files, expected {}, one for each of {}", path, got.size(), expected, of);
}

}  // namespace

std::vector<FeatureFiles> list_feature_files(const FeatureFiles& named) {
  const std::vector<std::string> data = feature_paths(named.data), targets = feature_paths(named.target);
  check_count(named.target, targets, named.data, data.size());
  std::vector<std::string> times;
  if (!named.times.empty()) {
    times = feature_paths(named.times);
    check_count(named.times, times, named.data, data.size());
  }
  std::vector<FeatureFiles> out;
  for (size_t i = 0; i < data.size(); ++i) out.push_back({data[i], targets[i], times.empty() ? "" : times[i]});
  return out;
}

FeatureData::FeatureData(const FeatureOptions& options, int64_t inputs, int64_t outputs) : seq_(options.seq) {
  CAROUSEL_ASSERT(seq_ > 0);
  int64_t rows = 0;
  for (const FeatureFiles& files : options.files) {
    if (files.target.empty()) fail(ErrorKind::kUsage, "--target: got none, expected the targets of {}", files.data);
    File file{files.data, read_sequences(files.data, inputs, "inputs", options.decimal),
              read_sequences(files.target, outputs, "outputs", options.decimal), Tensor()};
    check_like(files.target, file.target, files.data, file.x);
    if (!files.times.empty()) file.times = read_times(files.times, files.data, file.x, options.decimal);
    const int64_t length = file.x.dim(1), size = length * inputs;
    for (int64_t b = 0; b < file.x.dim(0) && length > 0; ++b) {
      const bool valid = options.side != Side::kAll && is_valid(file.x.f32() + b * size, size, options.valid_fraction);
      if (options.side != Side::kAll && valid != (options.side == Side::kValid)) continue;
      sequences_.push_back({files_.size(), b, rows});
      rows += (length + seq_ - 1) / seq_;
    }
    files_.push_back(std::move(file));
  }
  if (sequences_.empty()) {
    const std::string where = options.files.empty() ? "--data" : options.files.front().data;
    fail(ErrorKind::kInput, "{}: no sequence{}", where,
         options.side == Side::kAll ? "" : ": --valid-fraction divides whole sequences");
  }
  order_ = RowOrder(rows, options.order);
}

const FeatureData::Sequence& FeatureData::sequence_of(int64_t number) const {
  const auto next = std::upper_bound(sequences_.begin(), sequences_.end(), number,
                                     [](int64_t row, const Sequence& sequence) { return row < sequence.first_row; });
  return *(next - 1);
}

FeatureRow FeatureData::row(int64_t epoch, int64_t place) const {
  const int64_t number = order_.at(epoch, place);
  const Sequence& sequence = sequence_of(number);
  const File& file = files_[sequence.file];
  const int64_t length = file.x.dim(1), first = (number - sequence.first_row) * seq_;
  const int64_t at = sequence.number * length + first;
  FeatureRow out;
  out.length = std::min(seq_, length - first);
  out.x = file.x.f32() + at * file.x.dim(2);
  out.target = file.target.f32() + at * file.target.dim(2);
  out.times = file.times.defined() ? file.times.f32() + at : nullptr;
  out.lane = order_.lane(place);
  out.sequence = &sequence - sequences_.data();
  out.first = first;
  if (!order_.carries()) return out;
  const bool follows = place >= lanes() && order_.at(epoch, place - lanes()) + 1 == number;
  const bool followed = place + lanes() < rows() && order_.at(epoch, place + lanes()) == number + 1;
  out.continues = first > 0 && follows;
  out.goes_on = first + out.length < length && followed;
  return out;
}

std::string FeatureData::describe(const FeatureRow& row) const {
  const Sequence& sequence = sequences_[static_cast<size_t>(row.sequence)];
  return fmt::format("{}: sequence {}, rows {} to {}", files_[sequence.file].path, sequence.number + 1, row.first + 1,
                     row.first + row.length);
}

}  // namespace carousel::train
