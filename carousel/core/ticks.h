// SPDX-License-Identifier: Apache-2.0
// Round numbers for the axes of pictures.
#pragma once

namespace carousel {

/// A step of 1, 2, 2.5 or 5 times a power of ten that gives about `count` ticks over `span` > 0.
double tick_step(double span, int count);

}  // namespace carousel
