// SPDX-License-Identifier: Apache-2.0
// What the synapses of a group of neurons give, which both directions of the LTC cell compute. A neuron's sums run over
// its sources in ascending order. Sources that reach no neuron of a group are skipped: their terms are exactly zero.
#pragma once

#include "carousel/ops/cells/cell_cpu.h"
#include "carousel/ops/cells/ltc_formulas.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kVecs = ops::kCellPad / kLanes;

/// Currents and conductances of one group of neurons.
struct Sums {
  Vec current[kVecs];      // sum of a_ij erev_ij
  Vec conductance[kVecs];  // sum of a_ij
};

/// The sums of group `group` for the potentials v of its sources; see(n, k, opened) is told what vector k of the
/// group's entry n opened.
template <class See>
CAROUSEL_INLINE Sums synapse_sums(const ops::LtcSynapseArgs& synapses, int64_t padded, const float* v, int64_t group,
                                  const See& see) {
  Sums sums{};
  for (int32_t n = synapses.begin[group]; n < synapses.begin[group + 1]; ++n) {
    const int64_t i = synapses.sources[n], at = i * padded + group * ops::kCellPad;
    const Vec v_i = set1(v[i]);
#pragma GCC unroll 4
    for (int64_t k = 0; k < kVecs; ++k) {
      const int64_t j = at + k * kLanes;
      const Vec opened = ops::ltc_opened<VecMath>(load(synapses.sigma + j), v_i, load(synapses.mu + j));
      see(n, k, opened);
      sums.conductance[k] = fma(load(synapses.w + j), opened, sums.conductance[k]);
      sums.current[k] = fma(load(synapses.we + j), opened, sums.current[k]);
    }
  }
  return sums;
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
