// SPDX-License-Identifier: Apache-2.0
// Parameters of continuous-time blocks.
#include "carousel/blocks/cell_params.h"

#include <cmath>

namespace carousel::blocks {

Init xavier_uniform(int64_t rows, int64_t cols) {
  return Init::uniform(std::sqrt(6.0 / static_cast<double>(rows + cols)));
}

Init fan_in_uniform(int64_t fan_in) { return Init::uniform(1.0 / std::sqrt(static_cast<double>(fan_in))); }

Tensor row_major(const Weight& weight) {
  if (weight.master().defined()) return weight.master();
  Memory& memory = weight.memory();
  Tensor values(Shape{weight.rows(), weight.cols()}, DType::kF32, memory.is_apart() ? Memory::host() : memory);
  if (values.raw() != nullptr) weight.read_rows(0, weight.rows(), values.f32());
  return values.to(memory);
}

ops::CellMap read_mixed_memory(Params p, int64_t inputs, int64_t units) {
  const Weight input =
      p.projection("input", 4 * units, inputs, xavier_uniform(4 * units, inputs).as_gate(), true, Init::uniform(0.1));
  const Weight recurrent = p.projection("recurrent", 4 * units, units, Init::orthogonal().as_gate());
  return p.form(ops::memory_map(row_major(input), input.bias, row_major(recurrent)));
}

}  // namespace carousel::blocks
