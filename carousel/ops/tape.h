// SPDX-License-Identifier: Apache-2.0
// Everything autograd is: a tape of what was computed, and the gradients found by running it backwards. An op under a
// tape runs the kernels it runs without one, and then records how its gradient is computed.
//
// Contract of backward kernels: gradients of activations are written (Grads says where), gradients of parameters are
// added, in an order that shapes alone decide.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "carousel/ops/ctx.h"

namespace carousel {
namespace ops {
struct Dropout;
}

/// The masters that are trained and where their gradients are added. A master is known by its address, on meta by its
/// storage, which is its alone there: it outlives the tape.
class Trained {
 public:
  /// gradient [master.count()] f32, in the master's memory; both outlive this. A matrix that is both a table and a
  /// head gets the gradient of look-ups in `table_gradient`, of the same size: the sum of both is formed once, at the
  /// end, so that it does not depend on how a batch was cut. Null: look-ups add to `gradient`. On meta, where no kernel
  /// runs, both are not read.
  void add(const Tensor& master, float* gradient, float* table_gradient = nullptr);
  /// Null for what is not trained.
  float* gradient(const Tensor& master) const;
  float* table_gradient(const Tensor& master) const;

 private:
  struct Places {
    float *gradient, *table_gradient;
  };
  Places find(const Tensor& master) const;

  std::unordered_map<const void*, Places> places_;  // by the master's first byte
  std::vector<Tensor> on_meta_;                     // the masters on meta, which have no address
};

class Grads;

class Tape {
 public:
  /// `trained` outlives the tape. With `recompute`, a model keeps the input of a sublayer alone, and runs the sublayer
  /// again when the tape gets there (model::Stack): ops do not look at it.
  explicit Tape(const Trained& trained, bool recompute = false) : trained_(trained), recompute_(recompute) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// d[i]: the gradient of outputs[i], of its shape; undefined where the loss does not depend on it. Not called where
  /// all are undefined; but where gradients of the op's states come in, undefined ones are made zeros, and it is
  /// called. What it captures is kept until it has run: never capture an output only to name it.
  using Backward = std::function<void(Ctx& ctx, std::span<const Tensor> d, Grads& grads)>;
  /// The gradient of an activation that no node made is wanted: what enters a part of a model that is run again.
  void watch(const Tensor& activation);
  /// Whether the tensor is watched, trained, or made on this tape from what is.
  bool needs(const Tensor& tensor) const;
  /// Keeps nothing where no input needs a gradient: what is frozen costs nothing. Inputs are activations and masters;
  /// outputs are whole tensors of an arena, no views; states are those that the op replaced. Throws Error(kUsage),
  /// naming `op`, under a profile that changes more than `ltc` and `init`: `ctx` is the op's.
  void record(const Ctx& ctx, const char* op, std::initializer_list<Tensor> inputs,
              std::initializer_list<Tensor> outputs, Backward backward, const LayerStates& states = {});
  /// The same for an op that has found that an input needs a gradient.
  void record_needed(const Ctx& ctx, const char* op, std::initializer_list<Tensor> outputs, Backward backward,
                     const LayerStates& states = {});
  /// Runs the nodes from the last to the first. A node is freed, with what it kept and the gradients of its outputs,
  /// once it has run. Gradients that come in are in `grads` (give).
  void backward(Ctx& ctx, Grads& grads);
  size_t nodes() const { return nodes_.size(); }
  const Trained& trained() const { return trained_; }
  bool recompute() const { return recompute_; }
  /// From now on a model drops elements as `dropout` says, which outlives the tape (ops/dropout/dropout.h).
  void drop(const ops::Dropout& dropout) { dropout_ = &dropout; }
  const ops::Dropout* dropout() const { return dropout_; }  // null: nothing is dropped

 private:
  friend class Grads;
  struct Output {
    uint64_t id;
    Shape shape;
  };
  struct Node {
    std::vector<Output> outputs;
    LayerStates states;  // those that the op replaced
    Backward backward;
  };

  const Trained& trained_;
  bool recompute_;
  const ops::Dropout* dropout_ = nullptr;
  std::unordered_map<uint64_t, Shape> needed_;  // what is watched, and the outputs recorded, by id
  std::vector<Node> nodes_;
};

/// The gradients of one backward pass. Those of activations are here, those of masters where Trained says.
class Grads {
 public:
  /// d_states (may be null): gradients of the batch's states, bound states of the same layout. They come in as those of
  /// what a forward left, and go out as those of what it read.
  explicit Grads(const Tape& tape, const StateBatch* d_states = nullptr) : tape_(tape), d_states_(d_states) {}

  bool wants(const Tensor& input) const { return input.id() != 0 && tape_.needs(input); }
  /// Where to write the gradient of these columns of an activation, every element of it. If some of them have a
  /// gradient already, this is a place beside it that is added when the node returns. What nobody writes is zero.
  Columns write(Ctx& ctx, const Columns& input);
  /// The gradient of the whole activation is `d`, f32 of its shape, which is shared with whoever else has it; where
  /// there is a gradient already, d is added to it.
  void give(Ctx& ctx, const Tensor& input, const Tensor& d);
  /// The gradient of a watched activation, which is forgotten here; undefined where the loss does not depend on it.
  Tensor take(Ctx& ctx, const Tensor& activation);
  /// Where to add the gradient of a master; null where it is not trained.
  float* parameter(const Tensor& master) const { return tape_.trained_.gradient(master); }
  /// The same for a look-up in a table.
  float* table(const Tensor& master) const { return tape_.trained_.table_gradient(master); }
  /// The gradients of the states that a forward of one block had. A backward kernel reads the gradient of what the
  /// forward left, then replaces it in place by that of what it read. Of a per-token tensor it reads the gradients of
  /// the forward's own rows, and adds to those of the rows before. Empty: none comes in, and none is asked for.
  LayerStates states(const LayerStates& forward) const;
  /// Those of the whole batch, for a tape within this one's node; null where none come in.
  const StateBatch* d_states() const { return d_states_; }

 private:
  friend class Tape;
  struct Entry {
    Tensor d;
    bool shared = false;                                 // others have it too: copied before it is changed
    std::vector<std::pair<int64_t, int64_t>> unwritten;  // ranges of columns, ascending
  };
  struct Pending {
    uint64_t id;
    int64_t first;
    Tensor d;  // [N, count]
  };

  Entry& writable(Ctx& ctx, uint64_t id);
  static bool take_unwritten(Entry& entry, int64_t first, int64_t count);
  static void zero_unwritten(Ctx& ctx, Entry& entry);
  void add_pending(Ctx& ctx);  // once a node has returned
  Tensor take(Ctx& ctx, uint64_t id);

  const Tape& tape_;
  const StateBatch* d_states_;
  std::unordered_map<uint64_t, Entry> entries_;
  std::vector<Pending> pending_;
};

/// The fixed state tensor `spec` of every sequence as it is: [B, count] f32, undefined without states. An op under a
/// tape keeps it before its kernel replaces it.
Tensor keep_state(Ctx& ctx, const Seqs& seqs, const LayerStates& states, size_t spec, int64_t count);
/// Makes it what `kept` holds.
void restore_state(Ctx& ctx, const Tensor& kept, const LayerStates& states, size_t spec);

}  // namespace carousel
