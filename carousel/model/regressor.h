// SPDX-License-Identifier: Apache-2.0
// A model from rows of features to rows of features: a stack without token table and head. It is immutable; memory is
// an argument, as in a language model.
#pragma once

#include <span>
#include <string>

#include "carousel/model/pass.h"
#include "carousel/model/stack.h"

namespace carousel::model {

class Regressor {
 public:
  /// Throws Error(kInput) from the config's options or the parameter source. `where` names the config in messages.
  Regressor(const ModelConfig& config, ParamSource& source, const std::string& where);

  /// x [N, I] of all sequences end to end -> [N, O].
  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, const StateBatch* states) const;

  const StateLayout& state_layout() const { return stack_.state_layout(); }
  int64_t input_size() const { return input_size_; }            // I
  int64_t output_size() const { return stack_.output_size(); }  // O

 private:
  int64_t input_size_;
  Stack stack_;
};

/// One thread's way through a regressor, as Runner is for a language model.
class Predictor {
 public:
  /// All must outlive the predictor. Not for use by two threads at once.
  Predictor(const Regressor& regressor, const Stream& stream, const Numerics& numerics = Numerics::native())
      : regressor_(regressor), pass_(stream, numerics) {}

  /// The next lengths[s] rows of every sequence s, laid end to end in x [N, I] on the host; every state moves on by its
  /// length. elapsed [N] f32, on the host: time before each row, 0 or more; empty: 1 everywhere. Returns [N, O] in the
  /// stream's memory, valid until dropped. Throws kShape, and kInput for a feature or time that cannot be used; no
  /// state has changed then.
  Tensor forward(const Tensor& x, const Tensor& elapsed, std::span<State* const> states,
                 std::span<const int64_t> lengths);

  const Regressor& regressor() const { return regressor_; }
  const Arena& arena() const { return pass_.arena(); }

 private:
  const Regressor& regressor_;
  Pass pass_;
};

}  // namespace carousel::model
