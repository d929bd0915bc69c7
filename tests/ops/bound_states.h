// SPDX-License-Identifier: Apache-2.0
// States of a batch with random contents, bound: what a forward replaces, or the gradients that a backward replaces.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/ops/machine.h"

namespace carousel {

struct BoundStates {
  /// States of one block whose tensors have these shapes, for sequences of these lengths.
  BoundStates(const std::vector<Shape>& shapes, const std::vector<int64_t>& lengths_of, uint64_t seed,
              float scale = 1.0f)
      : lengths(lengths_of) {
    std::vector<StateSpec> specs;
    static const char* const kNames[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < shapes.size(); ++i) specs.push_back({kNames[i], DType::kF32, shapes[i]});
    layout.add("0", specs);
    for (size_t s = 0; s < lengths.size(); ++s) {
      NamedTensors tensors;
      for (size_t i = 0; i < shapes.size(); ++i) {
        const std::string name = std::string("0.") + kNames[i];
        tensors.push_back({name, random_tensor(shapes[i], seed + 10 * s + i, scale)});
      }
      states.push_back(State::from(tensors, 5 + static_cast<int64_t>(s), layout));
    }
    bind();
  }
  /// The states of one sequence of `other`, copied, for a run of `rows`.
  BoundStates(const BoundStates& other, size_t sequence, int64_t rows)
      : layout(other.layout), lengths{rows}, states{other.states[sequence]} {
    bind();
  }
  BoundStates(const BoundStates&) = delete;

  LayerStates layer() const { return batch.layer(0); }
  /// Tensor i of a sequence as it is.
  Tensor tensor(size_t sequence, size_t i) const { return states[sequence].tensors(layout)[i].tensor; }
  /// Tensor i of every sequence, end to end.
  std::vector<double> all(size_t i) const {
    std::vector<double> values;
    for (size_t s = 0; s < states.size(); ++s) {
      const Tensor one = tensor(s, i);
      values.insert(values.end(), one.f32(), one.f32() + one.count());
    }
    return values;
  }
  std::vector<float> all_f32(size_t i) const {
    const std::vector<double> values = all(i);
    return std::vector<float>(values.begin(), values.end());
  }

  StateLayout layout;
  std::vector<int64_t> lengths;
  std::vector<State> states;
  StateBatch batch;

 private:
  void bind() {
    std::vector<State*> pointers;
    for (State& state : states) pointers.push_back(&state);
    batch.bind(layout, pointers, lengths);
  }
};

}  // namespace carousel
