// SPDX-License-Identifier: Apache-2.0
// Formulas of the mLSTM that all its kernels share.
#pragma once

#include <cmath>

#include "carousel/core/host_device.h"
#include "carousel/ops/mlstm/mlstm_cpu.h"

namespace carousel::ops {

/// A value in two floats.
HOST_DEVICE void mlstm_split(double x, float* hi, float* lo) {
  *hi = static_cast<float>(x);
  *lo = static_cast<float>(x - static_cast<double>(*hi));
}

/// What h is divided by. `floor`: e^-m, infinite for m < -88, where h is then 0.
HOST_DEVICE float mlstm_denominator(const MlstmArgs& args, float q_dot_n, float floor) {
  const float magnitude = std::fabs(q_dot_n) + args.eps_in_max;  // adding zero changes no bit
  return (magnitude > floor ? magnitude : floor) + args.eps_outside;
}

/// What q and k are multiplied by: one is Dk^-1/2, the other 1, which changes no bit.
struct MlstmScales {
  float q, k;
};
HOST_DEVICE MlstmScales mlstm_scales(const MlstmDims& dims) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(dims.dk));
  return dims.scale_keys ? MlstmScales{1.0f, scale} : MlstmScales{scale, 1.0f};
}

}  // namespace carousel::ops
