// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/numerics.h"

namespace carousel {

const Numerics& Numerics::native() {
  static const Numerics kNative;
  return kNative;
}

}  // namespace carousel
