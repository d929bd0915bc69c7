// SPDX-License-Identifier: Apache-2.0
// pandas' names of steps, in the spelling of today ("h", "QE-DEC", "BME") and in that before pandas 2.2 ("H", "Q-DEC",
// "BM"). Expected stamps are in tests/fixtures/frequencies.
#pragma once

#include <string>
#include <vector>

#include "carousel/forecast/calendar.h"

namespace carousel::forecast {

/// The step `text` names, or an integer where `style` is a count. A name without its anchor (W, QE, YS) takes that of
/// the times, and a note says so where pandas' own is another. Throws Error(kUsage) for what is no name, for names that
/// are not supported (C, WOM, bh, ...) and for steps the times' style cannot write; Error(kInput) where a time does not
/// lie on the named days, or all times are whole steps of another size apart.
Frequency parse_frequency(const std::string& text, const SeriesTimes& times, const TimeStyle& style,
                          std::vector<std::string>& notes);

/// pandas' name of a step that leads through `at`: "W-SUN", "2QE-DEC"; where it has none, Frequency::str().
std::string frequency_alias(const Frequency& frequency, int64_t at);

}  // namespace carousel::forecast
