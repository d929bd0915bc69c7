// SPDX-License-Identifier: Apache-2.0
// pandas' names of steps, in the spelling since pandas 2.2 ("h", "QE-DEC", "BME") and in the one before ("H", "Q-DEC",
// "BM"). Expected stamps are in tests/fixtures/frequencies.
#pragma once

#include <string>
#include <vector>

#include "carousel/forecast/calendar.h"

namespace carousel::forecast {

/// The step that `text` names; an integer where `style` is a count. A name without its anchor (W, QE, YS) takes the
/// anchor of the times, and a note says so where pandas would take another. Throws Error(kUsage) for an unknown name,
/// for a name that is not supported (C, WOM, bh, ...) and for a step that the times' style cannot write; Error(kInput)
/// where a time does not lie on the named days, or all times are whole steps of another size apart.
Frequency parse_frequency(const std::string& text, const SeriesTimes& times, const TimeStyle& style,
                          std::vector<std::string>& notes);

/// pandas' name of a step that leads through `at`: "W-SUN", "2QE-DEC"; where it has none, Frequency::str().
std::string frequency_alias(const Frequency& frequency, int64_t at);

}  // namespace carousel::forecast
