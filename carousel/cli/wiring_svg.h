// SPDX-License-Identifier: Apache-2.0
// A wiring as a picture: layers from left to right, a curve per synapse.
#pragma once

#include <string>

#include "carousel/blocks/wiring.h"

namespace carousel::cli {

/// Sensory, inter, command and motor neurons in columns; excitatory synapses end in an arrow, inhibitory ones in a bar.
std::string wiring_svg(const blocks::Wiring& wiring);

/// "AutoNCP: 2 sensory, 9 inter, 6 command, 1 motor neurons; 30 synapses (14 excitatory, 16 inhibitory), ..."
std::string wiring_summary(const blocks::Wiring& wiring);

}  // namespace carousel::cli
