// SPDX-License-Identifier: Apache-2.0
// What the continuous-time cells (cfc, ltc) share: the small maps applied at every step, held so that lanes run along
// their outputs, and the LSTM that carries their mixed memory (Lechner and Hasani, arXiv:2006.04418).
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/ops/ctx.h"
#include "carousel/ops/tape.h"

namespace carousel::ops {

/// Columns of a cell's buffers come in groups of this many: any instruction set's vector divides it.
constexpr int64_t kCellPad = 16;
constexpr int64_t cell_pad(int64_t n) { return (n + kCellPad - 1) / kCellPad * kCellPad; }

/// `parts` maps of `inputs` values to `units` each, side by side: a form (ops/params.h). Part p's outputs begin at
/// column p * cell_pad(units). Columns beyond a part's units are zero.
class CellMap {
 public:
  CellMap() = default;
  CellMap(int64_t inputs, int64_t units, int64_t parts, Memory& memory = Memory::host());

  /// Part p's weights of inputs first.. come from rows first_row.. of `weight` [rows, columns] f32. Where `mask`, of
  /// the same shape or empty, is zero, they are held as zero.
  void add(int64_t part, int64_t first, const Tensor& weight, int64_t first_row = 0, const Tensor& mask = {});
  void add_bias(int64_t part, const Tensor& bias, int64_t first_row = 0);  // [rows] f32
  void pack(const Stream& stream) const;
  void release() { masters_.clear(); }

  bool defined() const { return weight_.defined(); }
  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return weight_.dim(1); }  // padded
  int64_t units() const { return units_; }            // of a part
  int64_t parts() const { return outputs() / cell_pad(units_); }
  const Tensor& weight() const { return weight_; }  // [inputs, outputs] f32
  const Tensor& bias() const { return bias_; }      // [outputs] f32

  /// A master that is trained; empty where none is.
  Tensor trained(const Tape& tape) const;
  /// What the gradients of its masters hold, packed as the map is: [inputs + 1, outputs] f32, the bias last, zeros
  /// where a master is not trained. A backward adds to it, then replaces the gradients by it. Empty where none is
  /// trained.
  Tensor gradient(Ctx& ctx, const Grads& grads) const;
  /// Replaces the gradients of the masters by `packed`, but for masked weights, whose gradients stay as they are.
  void replace_gradient(const Grads& grads, const Tensor& packed) const;

 private:
  struct Master {
    Tensor values;        // [rows, columns], or a bias [rows]
    Tensor mask;          // of the weights, or empty
    int64_t part, first;  // where they go: part, and its first input
    int64_t first_row;    // of values
  };
  void pack_weight(const Master& master, float* packed) const;
  /// Calls f(element of the master's gradient, element of `packed`) for every weight or bias that is not masked.
  template <class F>
  void each_element(const Grads& grads, const Tensor& packed, F&& f) const;

  int64_t inputs_ = 0;
  int64_t units_ = 0;
  std::vector<Master> masters_;
  Tensor weight_, bias_;
};

/// A row of values [units], zero-padded to [cell_pad(units)] f32: a form (ops/params.h).
class CellRow {
 public:
  CellRow() = default;
  explicit CellRow(const Tensor& values);  // of `units` elements, f32
  void pack(const Stream& stream) const;
  void release() { values_ = Tensor(); }

  const Tensor& padded() const { return padded_; }  // or empty
  const Tensor& master() const { return values_; }  // or empty once released

 private:
  Tensor values_, padded_;
};

/// The LSTM of mixed memory as one map of [x; h] to the gates cand, i, f, o.
///   input [4H, I], bias [4H], recurrent [4H, H], all f32
CellMap memory_map(const Tensor& input, const Tensor& bias, const Tensor& recurrent);

/// Throws Error(kShape) unless elapsed times are empty or f32 [rows].
void check_elapsed(const char* where, const Seqs& seqs);

}  // namespace carousel::ops
