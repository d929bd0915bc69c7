// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/kernel.h"

#include "carousel/core/error.h"

namespace carousel {

void not_on_device(const char* kernel) { fail(ErrorKind::kDevice, "{}: not on this device", kernel); }

}  // namespace carousel
