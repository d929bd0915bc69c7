// SPDX-License-Identifier: Apache-2.0
// What the pack() of a form (ops/params.h) writes to, wherever its storage lies.
#pragma once

#include "carousel/core/tensor.h"

namespace carousel {

/// The storage of a form as code of the host writes it: the storage itself, or elements on the host that finish()
/// copies there. Masters are read the same way, with to_host().
class Packing {
 public:
  explicit Packing(const Tensor& storage)
      : storage_(storage), here_(storage.memory().is_apart() ? Tensor(storage.shape(), storage.dtype()) : storage) {}

  float* f32() const { return here_.f32(); }
  std::byte* bytes() const { return static_cast<std::byte*>(here_.raw()); }
  void finish() const;

 private:
  const Tensor& storage_;
  Tensor here_;
};

}  // namespace carousel
