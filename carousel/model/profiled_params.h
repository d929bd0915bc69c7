// SPDX-License-Identifier: Apache-2.0
// Another source's fresh parameters, drawn as a profile says.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "carousel/model/profile.h"
#include "carousel/ops/params.h"

namespace carousel::model {

class ProfiledParams : public ParamSource {
 public:
  /// Both outlive this.
  ProfiledParams(ParamSource& source, const Numerics& numerics) : source_(source), numerics_(numerics) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    return source_.matrix(name, rows, cols, layout, drawn_by(numerics_, name, init));
  }
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override {
    return source_.tensor(name, shape, drawn_by(numerics_, name, init));
  }
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override {
    return source_.mask(name, std::move(drawn));
  }

 private:
  ParamSource& source_;
  const Numerics& numerics_;
};

}  // namespace carousel::model
