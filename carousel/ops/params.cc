// SPDX-License-Identifier: Apache-2.0
// The draws of Init that the papers give, and the names and masks that Params passes on to its source.
#include "carousel/ops/params.h"

#include <cmath>
#include <utility>

namespace carousel {

Init Init::copied(std::vector<float> values) {
  Init init{Kind::kCopied};
  init.values = std::make_shared<const std::vector<float>>(std::move(values));
  return init;
}

Init Init::small(int64_t dim) { return normal(std::sqrt(2.0 / (5.0 * static_cast<double>(dim)))); }

Init Init::wang(int64_t dim, int64_t layers) {
  return normal(2.0 / static_cast<double>(layers) / std::sqrt(static_cast<double>(dim)));
}

Init Init::entries_of(std::shared_ptr<const Mask> mask) {
  Init init{Kind::kMask};
  init.mask = std::move(mask);
  return init;
}

Init Init::synapses(std::vector<float> mask) {
  Init init = copied(std::move(mask)).held_fixed();
  init.zero_or_one = true;
  return init;
}

Init Init::read_by(double share) const {
  Init init = *this;
  init.read_share = share;
  return init;
}

Init Init::kept_in_f32() const {
  Init init = *this;
  init.keep_f32 = true;
  return init;
}

Init Init::as_gate() const {
  Init init = *this;
  init.gate = true;
  return init;
}

Init Init::held_fixed() const {
  Init init = *this;
  init.fixed = true;
  return init;
}

Init Init::at_least(double value) const {
  Init init = *this;
  init.least = value;
  return init;
}

void ParamSource::fix_masked(const Tensor&, const Tensor&) {}

std::shared_ptr<const Mask> ParamSource::mask(const std::string&, std::shared_ptr<const Mask> drawn) { return drawn; }

bool ParamSource::form(const Pack& pack) {
  ThreadPool alone(1);
  pack(Stream{&Memory::host(), Isa::kPortable, &alone});
  return false;
}

Weight weight_for(const Init& init, int64_t rows, int64_t cols, DType dtype, Weight::Layout layout, Memory& memory) {
  return init.mask ? Weight(*init.mask, dtype, memory) : Weight(rows, cols, dtype, layout, memory);
}

Init Params::masked(const std::string& name, int64_t rows, int64_t cols, const Init& init) const {
  if (wirings_ == nullptr) return init;
  const std::string full_name = prefix_ + name;
  const Wirings::Found found = wirings_->find(inside_ + name, full_name, rows, cols);
  if (!found.mask) return init;
  Init masked = init;
  masked.mask = found.stored ? source_->mask(full_name + ".mask", found.mask) : found.mask;
  return masked;
}

}  // namespace carousel
