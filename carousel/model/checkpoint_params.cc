// SPDX-License-Identifier: Apache-2.0
// Parameters from a checkpoint: found, checked, packed.
#include "carousel/model/params.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>

#include "carousel/core/error.h"
#include "carousel/core/finite.h"
#include "carousel/ops/kernel.h"
#include "carousel/ops/weight/checked_rows.h"

namespace carousel::model {
namespace {

// Bytes that are checked and packed before their pages are given back: few beside a mapped model, many beside a task.
constexpr int64_t kSliceBytes = int64_t{8} << 20;
constexpr size_t kSampleBytes = 4096;
constexpr size_t kSamples = 16;

Shape without_ones(const Shape& shape) {
  Shape out;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != 1) out.push_back(shape[i]);
  }
  return out;
}

// The reference multiplies by a circuit's mask; here it says which synapses there are: the two agree on 0 and 1 alone.
void check_zero_or_one(const std::string& where, const std::string& name, const Tensor& values) {
  for (int64_t i = 0; i < values.count(); ++i) {
    const float value = values.f32()[i];
    if (value == 0 || value == 1) continue;
    fail(ErrorKind::kInput, "{}: \"{}\": element {} is {}, expected 0 or 1", where, name, i, value);
  }
}

bool holds_masks(DType dtype) {
  return dtype == DType::kI8 || dtype == DType::kU8 || dtype == DType::kBool || is_float(dtype);
}

}  // namespace

std::shared_ptr<const Mask> read_mask(const formats::TensorEntry& entry, int64_t rows, int64_t cols, bool polarity,
                                      const std::string& where) {
  const Shape shape{rows, cols};
  if (!(without_ones(entry.shape) == without_ones(shape))) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected {}", where, entry.name, entry.type_name(), entry.shape.str(),
         shape.str());
  }
  if (entry.ggml != nullptr || !holds_masks(entry.dtype)) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected I8, U8, BOOL or a float type", where, entry.name,
         entry.type_name());
  }
  std::vector<int8_t> signs(static_cast<size_t>(shape.count()));
  const size_t size = dtype_size(entry.dtype);
  for (size_t i = 0; i < signs.size(); ++i) {
    const std::byte* const at = entry.bytes + i * size;
    float value = 0;
    if (is_float(entry.dtype)) {
      widen(at, entry.dtype, &value, 1);
    } else {
      value = entry.dtype == DType::kI8 ? static_cast<int8_t>(*at) : static_cast<uint8_t>(*at);
    }
    if (value != -1 && value != 0 && value != 1) {
      fail(ErrorKind::kInput, "{}: \"{}\" holds {} at [{}, {}], expected -1, 0 or 1", where, entry.name, value,
           static_cast<int64_t>(i) / cols, static_cast<int64_t>(i) % cols);
    }
    signs[i] = static_cast<int8_t>(value);
  }
  return std::make_shared<MatrixMask>(rows, cols, polarity, std::move(signs));
}

CheckpointParams::CheckpointParams(const Stream& stream, const formats::Checkpoint& checkpoint,
                                   const TensorNames& names, const ModelConfig& config, std::string where,
                                   const WeightTypes& types)
    : stream_(stream),
      checkpoint_(checkpoint),
      names_(names),
      config_(config),
      where_(std::move(where)),
      types_(types),
      hash_(XXH3_createState()) {
  XXH3_64bits_reset(hash_);
  const std::string dims = fmt::format("{} {} {}", config.hidden_size, config.num_layers, config.logit_soft_cap);
  XXH3_64bits_update(hash_, dims.data(), dims.size());
  for (const Sublayer& sublayer : config.sublayers) {
    const std::string text = sublayer.name + sublayer.block + sublayer.options.dump();
    XXH3_64bits_update(hash_, text.data(), text.size());
  }
}

CheckpointParams::~CheckpointParams() { XXH3_freeState(hash_); }

void CheckpointParams::missing(const std::string& name, const std::vector<TensorSource>& sources) const {
  std::string names;
  for (const TensorSource& source : sources)
    names += fmt::format("{}\"{}\"", names.empty() ? "" : " or ", source.file_name);
  fail(ErrorKind::kInput, "{}: tensor {} is missing (parameter {})", where_, names, name);
}

ParamPlace CheckpointParams::find(const std::string& name, const Shape& shape, bool mask) {
  const std::vector<TensorSource> sources = names_.sources(config_, name);
  for (const TensorSource& source : sources) {
    const formats::TensorEntry* entry = checkpoint_.find(source.file_name);
    if (entry == nullptr) continue;
    const auto refuse = [&](const std::string& expected) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected {}", where_, source.file_name, entry->type_name(),
           entry->shape.str(), expected);
    };
    if (!mask && !entry->is_weight()) {
      const std::string types = "a type of " + formats::decodable_ggml_types();
      refuse(fmt::format("{} and shape {}", checkpoint_.gguf() ? types : "dtype F32, F16 or BF16", shape.str()));
    }
    // Rows are taken from blocks, never parts of one.
    if (!mask && is_block(entry->dtype) &&
        (source.permuted || shape.rank() == 0 || shape[-1] % static_cast<int64_t>(block_values(entry->dtype)) != 0)) {
      refuse(fmt::format("dtype F32, F16 or BF16: it cannot be read in blocks as {}", shape.str()));
    }
    if (!mask && entry->ggml != nullptr && shape[-1] % entry->ggml->block != 0) {
      refuse(fmt::format("{}, whose rows are not whole blocks of {}", shape.str(), entry->ggml->block));
    }
    int64_t& taken = taken_[source.file_name];
    if (source.permuted) {
      if (!(without_ones(entry->shape) == without_ones(source.permuted->stored))) {
        refuse(source.permuted->stored.str());
      }
      if (entry->ggml != nullptr && values_together(*source.permuted) % entry->ggml->block != 0) {
        refuse("dtype F32, F16 or BF16: its values have another order here");
      }
      taken = shape.count();
      return {entry, entry->bytes, source.permuted};
    }
    if (!source.part) {
      if (!(without_ones(entry->shape) == without_ones(shape))) refuse(shape.str());
      taken = shape.count();
      return {entry, entry->bytes};
    }
    const int rank = shape.rank() + (source.stacked > 0 ? 1 : 0);
    const bool same_rows = entry->shape.rank() == rank && (shape.rank() == 1 || entry->shape[-1] == shape[-1]) &&
                           (source.stacked == 0 || entry->shape[0] == source.stacked);
    if (!same_rows || shape.count() > entry->shape.count() - taken) {
      const std::string slices = source.stacked > 0 ? fmt::format("{} slices with ", source.stacked) : "";
      const int64_t row = std::max<int64_t>(1, shape.count() / std::max<int64_t>(1, shape[0]));
      refuse(fmt::format("{}at least {} rows of {} (with {})", slices, taken / row + shape[0], shape.str(), name));
    }
    const std::byte* const bytes = entry->bytes + entry->bytes_of(taken);
    taken += shape.count();
    return {entry, bytes};
  }
  missing(name, sources);
}

void CheckpointParams::check_finite(const Values& values) const {
  constexpr int64_t kTask = 1 << 16;
  std::atomic<int64_t> first{INT64_MAX};
  const auto check = [&](int64_t task) {
    const int64_t begin = task * kTask;
    const std::byte* const bytes = values.bytes + dtype_bytes(values.dtype, static_cast<size_t>(begin));
    const std::optional<int64_t> found = first_not_finite(bytes, values.dtype, std::min(kTask, values.count - begin));
    if (!found) return;
    int64_t seen = first.load();
    while (begin + *found < seen && !first.compare_exchange_weak(seen, begin + *found)) {
    }
  };
  parallel_for(*stream_.pool, (values.count + kTask - 1) / kTask, check);
  if (first.load() != INT64_MAX) {
    fail(ErrorKind::kInput,
         "{}: \"{}\" holds a value that is not finite (NaN or infinity), the first is element {} of {}", where_,
         values.entry.name, values.first + first.load(), values.name);
  }
}

void CheckpointParams::check_range(const Values& values, int64_t rows, DType target) const {
  const size_t row_values = static_cast<size_t>(values.count / rows), row_bytes = dtype_bytes(values.dtype, row_values);
  std::atomic<bool> beyond{false};
  parallel_for(*stream_.pool, rows, [&](int64_t row) {
    std::vector<float> widened(row_values);
    widen(values.bytes + static_cast<size_t>(row) * row_bytes, values.dtype, widened.data(), row_values);
    if (!fits(widened.data(), row_values, target)) beyond.store(true);
  });
  if (beyond.load()) {
    fail(ErrorKind::kInput, "{}: \"{}\" ({}) holds values beyond {}, the most {} can hold", where_, values.entry.name,
         values.name, largest_value(target), dtype_name(target));
  }
}

// Blocks to f32 on all threads; `count` values are whole blocks.
void CheckpointParams::decode(const formats::TensorEntry& entry, const std::byte* bytes, int64_t count,
                              float* out) const {
  constexpr int64_t kTask = 1 << 14;  // values, a multiple of every block
  parallel_for(*stream_.pool, (count + kTask - 1) / kTask, [&](int64_t task) {
    const int64_t begin = task * kTask;
    entry.to_f32(bytes + entry.bytes_of(begin), std::min(kTask, count - begin), out + begin);
  });
}

void CheckpointParams::sample(const std::string& name, const formats::TensorEntry& entry, const std::byte* bytes,
                              const Shape& shape) {
  const std::string header = fmt::format("{} {} {}", name, entry.type_name(), shape.str());
  XXH3_64bits_update(hash_, header.data(), header.size());
  const size_t size_bytes = entry.bytes_of(shape.count());
  if (size_bytes <= kSampleBytes * kSamples) {
    XXH3_64bits_update(hash_, bytes, size_bytes);
    return;
  }
  for (size_t i = 0; i < kSamples; ++i) {
    const size_t offset = (size_bytes - kSampleBytes) / (kSamples - 1) * i;
    XXH3_64bits_update(hash_, bytes + offset, kSampleBytes);
  }
}

std::shared_ptr<const Mask> CheckpointParams::mask(const std::string& name, std::shared_ptr<const Mask> drawn) {
  const Shape shape{drawn->rows(), drawn->cols()};
  const ParamPlace place = find(name, shape, true);
  sample(name, *place.entry, place.bytes, shape);
  return read_mask(*place.entry, shape[0], shape[1], drawn->polarity(), where_);
}

void CheckpointParams::check_masked(const std::string& name, int64_t cols, const MaskFindings& findings,
                                    int64_t* cleared) const {
  *cleared += findings.cleared;
  if (!findings.wrong_sign) return;
  fail(ErrorKind::kInput, "{}: the element [{}, {}] of {} has not the sign its wiring gives it", where_,
       *findings.wrong_sign / cols, *findings.wrong_sign % cols, name);
}

void CheckpointParams::warn_of_masked(const std::string& name, int64_t cleared) {
  if (cleared == 0) return;
  warnings_.push_back(fmt::format("{}: {} has {} value{} other than zero where its wiring has no weight; taken as zero",
                                  where_, name, cleared, cleared == 1 ? "" : "s"));
}

void CheckpointParams::warn_of_kept(const std::string& name, int64_t cols, DType wanted, DType dtype) {
  const bool stays = !fitting_dtype(wanted, cols);
  if (kept_++ == 0) {
    kept_first_ = warnings_.size();
    warnings_.push_back(fmt::format("{}: {} {} {}: its rows of {} are no whole blocks of {}", where_, name,
                                    stays ? "stays" : "is held in", dtype_name(dtype), cols,
                                    stays ? kBlockValues : block_values(wanted)));
  } else if (kept_ == 2) {
    warnings_[kept_first_] += "; so do others";
  }
}

Weight CheckpointParams::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                                const Init& init) {
  const ParamPlace place = find(name, Shape{rows, cols});
  const formats::TensorEntry& entry = *place.entry;
  const std::vector<std::byte> reordered = place.permuted ? place.reordered_bytes() : std::vector<std::byte>();
  const std::byte* const values = place.permuted ? reordered.data() : place.bytes;
  sample(name, entry, values, Shape{rows, cols});
  const DType own = held_dtype(entry);
  // Masked values are found in floats, and in the blocks that sparse forms hold.
  const bool decodes = init.mask != nullptr && is_block(own) && !is_simple_block(own);
  const DType source = decodes ? DType::kF32 : own;
  const DType dtype = types_.held(name, cols, layout, init, own);
  const std::optional<DType> wanted = types_.of(name, layout, init);
  if (wanted && fitting_dtype(*wanted, cols) != wanted) warn_of_kept(name, cols, *wanted, dtype);
  const bool mapped = types_.maps(entry, place.permuted.has_value(), init, dtype);
  if (mapped && !kernel_traits(*stream_.memory).maps) {
    fail(ErrorKind::kDevice, "{}: matrices read from the mapped file: not on this device", where_);
  }
  Weight weight = mapped ? Weight::over(entry.file, values, rows, cols, dtype)
                         : weight_for(init, rows, cols, dtype, layout, *stream_.memory);
  const DType held_as = weight.as<SparsePanels>() != nullptr && is_block(dtype) ? DType::kF16 : dtype;
  const DensePanels* const as_stored = !init.mask && source == dtype ? weight.as<DensePanels>() : nullptr;
  std::vector<std::byte> masked;  // rows whose masked values are zeroed
  int64_t cleared = 0;
  const auto row_bytes = static_cast<int64_t>(dtype_bytes(source, static_cast<size_t>(cols)));
  const int64_t panels = std::max<int64_t>(1, kSliceBytes / std::max<int64_t>(1, row_bytes * Weight::kPanelRows));
  const int64_t slice = panels * Weight::kPanelRows;
  std::vector<float> decoded(decodes ? static_cast<size_t>(std::min(slice, rows) * cols) : 0);
  for (int64_t first = 0; first < rows; first += slice) {
    const int64_t count = std::min(slice, rows - first);
    const std::byte* const stored = values + entry.bytes_of(first * cols);
    const std::byte* bytes = stored;
    if (decodes) {
      decode(entry, stored, count * cols, decoded.data());
      bytes = reinterpret_cast<const std::byte*>(decoded.data());
    }
    const Values read = {name, entry, bytes, source, first * cols, count * cols};
    const bool written = as_stored != nullptr && write_checked_rows(stream_, *as_stored, first, count, cols, bytes);
    if (!written) check_finite(read);  // which says where the first one is
    if (largest_value(held_as) < largest_value(source)) check_range(read, count, held_as);
    if (init.mask) {
      masked.assign(bytes, bytes + static_cast<size_t>(count * row_bytes));
      check_masked(name, cols, clear_masked(stream_, *init.mask, first, count, source, masked.data()), &cleared);
    }
    if (!mapped && !written) weight.write_rows(stream_, first, count, init.mask ? masked.data() : bytes, source);
    if (entry.file && !place.permuted) entry.file->release(stored, entry.bytes_of(count * cols));
  }
  warn_of_masked(name, cleared);
  return weight;
}

Tensor CheckpointParams::tensor(const std::string& name, const Shape& shape, const Init& init) {
  const ParamPlace place = find(name, shape);
  const std::vector<std::byte> reordered = place.permuted ? place.reordered_bytes() : std::vector<std::byte>();
  const std::byte* const stored = place.permuted ? reordered.data() : place.bytes;
  sample(name, *place.entry, stored, shape);
  Tensor values(shape, DType::kF32);
  decode(*place.entry, stored, shape.count(), values.f32());
  check_finite({name, *place.entry, static_cast<const std::byte*>(values.raw()), DType::kF32, 0, shape.count()});
  if (init.zero_or_one) check_zero_or_one(where_, place.entry->name, values);
  if (init.mask) {
    auto* const bytes = static_cast<std::byte*>(values.raw());
    int64_t cleared = 0;
    check_masked(name, init.mask->cols(), clear_masked(stream_, *init.mask, 0, init.mask->rows(), DType::kF32, bytes),
                 &cleared);
    warn_of_masked(name, cleared);
  }
  return values.to(*stream_.memory);
}

std::vector<std::string> CheckpointParams::finish() const {
  std::vector<std::string> ignored;
  for (const formats::TensorEntry* entry : checkpoint_.entries()) {
    const auto taken = taken_.find(entry->name);
    if (taken == taken_.end()) {
      if (names_.ignorable(config_, entry->name)) {
        ignored.push_back(entry->name);
        continue;
      }
      fail(ErrorKind::kInput, "{}: tensor \"{}\" {} belongs to no parameter of this config", where_, entry->name,
           entry->shape.str());
    }
    if (taken->second != entry->shape.count()) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, of which the config's parameters take {} elements", where_,
           entry->name, entry->shape.str(), taken->second);
    }
  }
  return ignored;
}

uint64_t CheckpointParams::fingerprint() const { return XXH3_64bits_digest(hash_); }

}  // namespace carousel::model
