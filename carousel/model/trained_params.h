// SPDX-License-Identifier: Apache-2.0
// Another source's parameters as they are trained: f32 masters in one flat array, their gradients in another, and the
// packed things that ops read, which follow the masters at every repack().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "carousel/model/adapter.h"
#include "carousel/model/params.h"
#include "carousel/ops/linear/low_rank.h"
#include "carousel/ops/tape.h"

namespace carousel::model {

/// A parameter, in the order of the model's constructor. An adapter's follow, A and B of each module.
struct TrainedParam {
  std::string name;  // canonical
  Shape shape;
  Init init;
  bool matrix = false;     // asked for as a matrix
  int64_t first = 0;       // its first element in the flat arrays
  Tensor master;           // [shape] f32, a view of the array of masters
  Tensor gradient, table;  // the same of gradients; of look-ups where a table is the head too, else undefined
  bool trained = true;     // false: frozen, with no gradient
};

/// Fills a tensor of an adapter.
using AdapterValues = std::function<void(const ParamRecord& record, float* out)>;

/// A choice of what a run trains: parameters of the model, or an adapter alone.
struct TrainedChoice {
  std::function<bool(const ParamRecord& record)> is_trained;  // empty: every parameter
  Adapter adapter;                                            // without modules: none; else nothing else is trained
  /// Fills A and B of the adapter, asked for by the names that AdapterModule gives them.
  AdapterValues adapter_values;
};

class TrainedParams : public ParamSource {
 public:
  /// Takes the values of `source`, which is read while the model is built. `records` are all that the model's
  /// constructor will ask for (ParamList). Stored masks are never trained. This and the stream outlive the model; on
  /// meta nothing is allocated. On a stream that computes in bf16, products are in bf16: matrices are packed so,
  /// masters and gradients stay f32.
  TrainedParams(ParamSource& source, const Stream& stream, const std::vector<ParamRecord>& records,
                const TrainedChoice& choice = {});
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override;
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override;
  bool form(const Pack& pack) override;
  void fix_masked(const Tensor& values, const Tensor& mask) override;

  const Trained& trained() const { return trained_; }
  const std::vector<TrainedParam>& params() const { return params_; }
  /// The flat arrays [count] f32: parameters one after the other, each from a multiple of 16 elements on, zeros
  /// between.
  const Tensor& masters() const { return masters_; }
  const Tensor& gradients() const { return gradients_; }
  /// Bytes of gradients(), and of the gradient of look-ups in a table that is the head too.
  size_t gradient_bytes() const;
  /// Bytes of the sums of base weights and adapter.
  size_t sum_bytes() const;
  bool is_trained(const std::string& name) const;  // false for a mask
  /// What a file holds of one of the records: the master, or the entries of a stored mask.
  void values(const ParamRecord& record, float* out) const;
  /// Gradients are zero from here on, to be added to.
  void clear_gradients();
  /// To be called once all of a step's gradients are there: joins those of tables, makes masked ones exactly zero, and
  /// finds those of an adapter.
  void finish_gradients();
  /// To be called once the masters have changed: what is masked gets its value back, signs and bounds are kept, and
  /// every weight and form is packed.
  void finish_step() const;
  /// Packs every weight and form from its master. Gradients are undefined until they are cleared.
  void repack() const;
  const Adapter& adapter() const { return adapter_; }
  /// An adapter's tensors as its file names them: values, or gradients.
  NamedTensors adapter_tensors(bool gradients) const;

 private:
  /// A module of the adapter. Weights are packed from W + scale B A, whose gradient gives those of A and B. Both are in
  /// `sums` one after the other: values while weights are packed, the gradient from clear_gradients() on. No op reads a
  /// panel weight's master.
  struct Low {
    size_t a = 0, b = 0;          // into params_
    std::vector<size_t> records;  // into params_
    Tensor sums;                  // [M, K]
  };

  void place(const std::vector<ParamRecord>& records);
  void place_adapter(const std::vector<ParamRecord>& records, const AdapterValues& values);
  ops::LowRank low_rank(const Low& low) const;
  void sum(const Low& low) const;
  /// The next parameter. Its mask is the one the constructor asks with: a stored one may differ from the record's.
  TrainedParam& take(const std::string& name, const Shape& shape, const Init& init);

  ParamSource& source_;
  const Stream& stream_;
  std::vector<TrainedParam> params_;
  size_t taken_ = 0;  // how many the constructor has asked for
  Tensor masters_, gradients_, tables_;
  Trained trained_;
  /// An element that has no effect, and the value it keeps.
  struct Fixed {
    float* element;
    float value;
  };
  std::vector<Fixed> fixed_;
  std::vector<Weight> weights_;
  std::vector<Pack> packs_;
  Adapter adapter_;
  std::vector<Low> lows_;
  std::unordered_map<std::string, Tensor> sums_;  // what a weight with an adapter is packed from, by the weight's name
  std::unordered_map<std::string, size_t> by_name_;                     // into params_
  std::unordered_map<std::string, std::shared_ptr<const Mask>> masks_;  // stored ones, by name
  std::unordered_map<std::string, Tensor> mask_entries_;                // those asked for as tensors
};

}  // namespace carousel::model
