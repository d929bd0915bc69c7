// SPDX-License-Identifier: Apache-2.0
// What a test of an op runs on: a target, some threads, an arena; and ragged batches with random contents. Tests make
// their tensors on the host, and bring them to the target and back.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"
#include "carousel/ops/ctx.h"
#include "tests/targets.h"

namespace carousel {

struct Machine {
  explicit Machine(const Target& target = cpu::best_isa(), int threads = 3)
      : pool(threads), stream{target.memory, target.isa, &pool} {}

  Memory& memory() const { return *stream.memory; }
  /// On the target.
  Tensor on(const Tensor& tensor) const { return tensor.defined() ? tensor.to(memory()) : tensor; }
  Columns on(const Columns& columns) const { return {on(columns.of), columns.first, columns.count}; }
  Seqs on(Seqs seqs) const {
    seqs.bring_to(memory());
    return seqs;
  }

  ThreadPool pool;
  Stream stream;
  Arena arena{*stream.memory};
  Ctx ctx{stream, arena};
};

inline Tensor random_tensor(Shape shape, uint64_t seed, float scale = 1.0f, float shift = 0.0f) {
  Tensor tensor(shape, DType::kF32);
  Rng rng(seed);
  for (int64_t i = 0; i < tensor.count(); ++i) tensor.f32()[i] = static_cast<float>(rng.normal()) * scale + shift;
  return tensor;
}

/// Sequences of these lengths, all starting at position 0.
inline Seqs sequences(const std::vector<int64_t>& lengths) {
  Seqs seqs;
  seqs.offsets.push_back(0);
  for (const int64_t length : lengths) {
    seqs.offsets.push_back(seqs.offsets.back() + length);
    seqs.pos.push_back(0);
  }
  return seqs;
}

/// A form (ops/params.h), packed.
template <class Form>
Form formed(Form form) {
  form.pack(Stream());
  return form;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.count() == 0 || std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0);
}

inline bool same_bits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0;
}

/// Rows of `parts` laid end to end.
inline Tensor joined(const std::vector<Tensor>& parts) {
  int64_t rows = 0;
  for (const Tensor& part : parts) rows += part.dim(0);
  Tensor out({rows, parts.at(0).dim(1)}, DType::kF32);
  auto* bytes = static_cast<std::byte*>(out.raw());
  for (const Tensor& part : parts) {
    if (part.count() > 0) std::memcpy(bytes, part.raw(), part.size_bytes());
    bytes += part.size_bytes();
  }
  return out;
}

/// ||a - b|| / ||b||, b in f64.
inline double relative_error(const float* a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += b[i] * b[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / (size > 0 ? size : 1e-300));
}

}  // namespace carousel
