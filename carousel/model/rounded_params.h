// SPDX-License-Identifier: Apache-2.0
// Another source's parameters, rounded to a narrower type, as an implementation that runs in that type holds them.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "carousel/ops/params.h"

namespace carousel::model {

class RoundedParams : public ParamSource {
 public:
  /// Both must outlive the source. Matrices are held in `dtype` (quantised ones as they are); a parameter that keeps
  /// f32 (Init) is left alone.
  RoundedParams(ParamSource& source, const Stream& stream, DType dtype)
      : source_(source), stream_(stream), dtype_(dtype) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override;
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override {
    return source_.mask(name, std::move(drawn));
  }

 private:
  ParamSource& source_;
  const Stream& stream_;
  DType dtype_;
};

}  // namespace carousel::model
