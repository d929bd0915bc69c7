// SPDX-License-Identifier: Apache-2.0
// Forecasts as a picture: the end of the history, the median, the bands between pairs of quantiles. SVG, no fonts but
// the viewer's own, the same bytes for the same forecast.
#pragma once

#include <string>
#include <vector>

#include "carousel/forecast/series.h"

namespace carousel::forecast {

/// One panel per series, at most kPanels of them.
constexpr size_t kPanels = 8;
std::string plot_forecasts(const SeriesTable& table, const std::vector<SeriesForecast>& forecasts,
                           const std::vector<double>& levels);

}  // namespace carousel::forecast
