// SPDX-License-Identifier: Apache-2.0
// Where parameters come from: a checkpoint, a seed, or nowhere (shapes only).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/families/family.h"
#include "carousel/ops/params.h"

struct XXH3_state_s;

namespace carousel::model {

/// One parameter as a model's constructor asked for it.
struct ParamRecord {
  std::string name;  // canonical
  Shape shape;
  Init init;
  bool matrix = false;                              // asked for as a matrix, whose type may be chosen
  Weight::Layout layout = Weight::Layout::kPanels;  // the layout of a matrix
};

/// The types that a model's matrices are held in; an unset one keeps the file's type. Gates are matrices whose Init
/// says so.
struct WeightTypes {
  std::optional<DType> body, embeddings, head, gates;

  /// True where `body` names a mix: some matrices get more bits than it. with_mix chooses them.
  bool mixed = false;
  /// The types that a mix gives, by the parameters' names; they come before all others.
  std::unordered_map<std::string, DType> by_name = {};

  /// The type set for parameter `name`. A table that embeddings and head share has the head's, or else the embeddings'.
  /// Masked weights must stay zero, so in place of blocks with minima or of 256 values they get Q4 or Q8.
  std::optional<DType> of(const std::string& name, Weight::Layout layout, const Init& init) const;
  /// The type that a matrix stored as `stored` is held in: the one set for it, as fitting_dtype has it for rows of
  /// `cols`; `stored` where none is set, or none fits. With a mask, or with `simple_blocks`, it is Q8 in place of any
  /// block type but Q4.
  DType held(const std::string& name, int64_t cols, Weight::Layout layout, const Init& init, DType stored) const;
  bool own() const { return !body && !embeddings && !head && !gates; }  // every matrix keeps its type

  /// The device multiplies by Q8 and Q4 alone of the block types.
  bool simple_blocks = false;
  /// These types where the model is held in `memory`.
  WeightTypes in(const Memory& memory) const;
  /// Matrices that keep the file's type and order are read from the mapped file.
  bool mapped = false;
  /// Whether a matrix is read from the mapped file: `mapped` is set, the matrix is used as the file has it, and its
  /// rows follow each other there.
  bool maps(const formats::TensorEntry& entry, bool permuted, const Init& init, DType held) const;
};

/// The block type for rows of `cols` where `wanted` is asked for: rows that are no whole blocks of 256 get blocks of 32
/// with at least as many bits, Q5_0 for Q4_K, Q5_1 for Q5_K and Q8 for Q6_K. Nothing: the rows are no whole blocks.
std::optional<DType> fitting_dtype(DType wanted, int64_t cols);

/// `types`, where a mix is asked for with the types that it gives the matrices of this model.
WeightTypes with_mix(const WeightTypes& types, const ModelConfig& config, const std::string& where);

/// Shapes only: a model built on it allocates nothing. `see` is called with every parameter, in the order of the
/// model's constructor.
class ShapeSource : public ParamSource {
 public:
  /// Is called for a stored mask too, with a record of kind kMask.
  using See = std::function<void(const ParamRecord& record)>;
  /// Returns the mask that projection `name` has in place of `drawn`.
  using MaskOf = std::function<std::shared_ptr<const Mask>(const std::string& name, std::shared_ptr<const Mask> drawn)>;
  /// Without `mask_of` a projection has the mask that is drawn.
  explicit ShapeSource(See see, MaskOf mask_of = {}) : see_(std::move(see)), mask_of_(std::move(mask_of)) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override;
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override;

 private:
  See see_;
  MaskOf mask_of_;
};

/// All parameters as a list.
class ParamList : public ShapeSource {
 public:
  ParamList() : ShapeSource([this](const ParamRecord& record) { records_.push_back(record); }) {}
  ParamList(const ParamList&) = delete;
  ParamList& operator=(const ParamList&) = delete;
  const std::vector<ParamRecord>& records() const { return records_; }

 private:
  std::vector<ParamRecord> records_;
};

/// Parameters on meta in the types they would be held in. A model built on them runs its forwards with nothing
/// allocated, and its arena reserves the bytes that it would on the host.
class MetaParams : public ParamSource {
 public:
  /// The type of a matrix.
  using DTypeOf = std::function<DType(const ParamRecord& record)>;
  /// Without `mask_of` masks are those that are drawn.
  explicit MetaParams(DTypeOf dtype_of, ShapeSource::MaskOf mask_of = {})
      : dtype_of_(std::move(dtype_of)), mask_of_(std::move(mask_of)) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override;
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override;

 private:
  DTypeOf dtype_of_;
  ShapeSource::MaskOf mask_of_;
};

/// The entries of a stored mask, in a type that holds -1, 0 and 1. Throws Error(kInput) naming the first other value.
std::shared_ptr<const Mask> read_mask(const formats::TensorEntry& entry, int64_t rows, int64_t cols, bool polarity,
                                      const std::string& where);

/// The values a fresh parameter starts from. They depend on seed and name alone.
void draw_param(const ParamRecord& record, uint64_t seed, float* out);

/// Values from the file's order to the block's, or back. Values that stay side by side are moved together, so that
/// values in blocks move as whole rows; bytes_of(count) is the number of bytes that `count` values take.
using BytesOf = std::function<size_t(int64_t count)>;
std::vector<std::byte> from_file_order(const Permutation& permutation, const std::byte* stored,
                                       const BytesOf& bytes_of);
std::vector<std::byte> to_file_order(const Permutation& permutation, const std::byte* values, const BytesOf& bytes_of);
/// How many values stay side by side.
int64_t values_together(const Permutation& permutation);

/// Fresh parameters, matrices held in `dtype`.
class DrawnParams : public ParamSource {
 public:
  DrawnParams(const Stream& stream, uint64_t seed, DType dtype) : stream_(stream), seed_(seed), dtype_(dtype) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override;

 private:
  const Stream& stream_;
  uint64_t seed_;
  DType dtype_;
};

/// The dtype that a matrix of this tensor is held in where no other is set: the tensor's own, which for blocks of GGUF
/// is not that of the entry. Q8_0 and Q4_0 are Q8 and Q4, byte for byte.
DType held_dtype(const formats::TensorEntry& entry);

/// Where a parameter's values lie in a checkpoint.
struct ParamPlace {
  const formats::TensorEntry* entry = nullptr;
  const std::byte* bytes = nullptr;                // the first value
  std::optional<Permutation> permuted = {};        // from the file's order to the block's; empty: they are the same
  std::vector<std::byte> reordered_bytes() const;  // the values in the block's order, where they are permuted
};

/// A published checkpoint, read through its family's spelling. Matrices are packed in the type that held_dtype or
/// `types` says, or used in the mapped file. Mapped pages are given back to the system as they are packed, so the peak
/// of memory is little more than the packed weights.
class CheckpointParams : public ParamSource {
 public:
  CheckpointParams(const Stream& stream, const formats::Checkpoint& checkpoint, const TensorNames& names,
                   const ModelConfig& config, std::string where, const WeightTypes& types = {});
  ~CheckpointParams() override;
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override;
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override;

  /// The values of one parameter, in the file's type. Each may be asked for once, in the order of the constructor.
  /// Throws Error(kInput) naming the tensor that is missing or misshaped.
  /// `mask`: the parameter is a stored mask, whose dtype read_mask checks.
  ParamPlace find(const std::string& name, const Shape& shape, bool mask = false);
  /// Throws Error(kInput) when the file holds a tensor, or rows of one, that no block asked for.
  /// Returns the tensors that have no effect and may be there.
  std::vector<std::string> finish() const;
  /// Lines about values that have no effect, or look wrong.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// A hash of names, shapes, dtypes and sampled bytes, in canonical order: it is the same for any file layout.
  uint64_t fingerprint() const;

 private:
  /// Values of one parameter as they are checked.
  struct Values {
    const std::string& name;
    const formats::TensorEntry& entry;
    const std::byte* bytes;  // [count] of dtype
    DType dtype;
    int64_t first;  // the place of the first one in the parameter
    int64_t count;
  };

  /// Notes what clear_masked found; throws Error(kInput) for a sign against its polarity.
  void check_masked(const std::string& name, int64_t cols, const MaskFindings& findings, int64_t* cleared) const;
  void warn_of_masked(const std::string& name, int64_t cleared);
  /// Names the first such matrix, and says that there are more.
  void warn_of_kept(const std::string& name, int64_t cols, DType wanted, DType dtype);
  void check_finite(const Values& values) const;
  /// Throws Error(kInput) where `target` cannot hold one of the values, which are `rows` whole rows.
  void check_range(const Values& values, int64_t rows, DType target) const;
  void decode(const formats::TensorEntry& entry, const std::byte* bytes, int64_t count, float* out) const;
  void sample(const std::string& name, const formats::TensorEntry& entry, const std::byte* bytes, const Shape& shape);
  [[noreturn]] void missing(const std::string& name, const std::vector<TensorSource>& sources) const;

  const Stream& stream_;
  const formats::Checkpoint& checkpoint_;
  TensorNames names_;
  const ModelConfig& config_;
  std::string where_;
  WeightTypes types_;
  std::unordered_map<std::string, int64_t> taken_;  // elements asked for so far, by file name
  std::vector<std::string> warnings_;
  int64_t kept_ = 0;  // matrices whose rows are no whole blocks, though a block type was asked for
  size_t kept_first_ = 0;
  XXH3_state_s* hash_;
};

}  // namespace carousel::model
