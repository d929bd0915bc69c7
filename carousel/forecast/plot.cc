// SPDX-License-Identifier: Apache-2.0
// Draws forecasts as SVG: one panel per series, with axes, bands, history and median.
#include "carousel/forecast/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "carousel/core/ticks.h"
#include "carousel/text/xml.h"

namespace carousel::forecast {
namespace {

constexpr double kWidth = 960, kPanelHeight = 340, kLeft = 84, kRight = 24, kTop = 44, kBottom = 46;
constexpr const char* kHistoryColor = "#334155";
constexpr const char* kForecastColor = "#c2410c";
constexpr int64_t kMinHistory = 48;
constexpr int64_t kMostTicks = 50;  // an axis has about ten

struct Panel {
  const SeriesTable& table;
  const Series& series;
  const SeriesForecast& forecast;
  const std::vector<double>& levels;
  double top = 0;
  int64_t first = 0, history = 0, horizon = 0;  // first value shown; number of values; steps ahead
  double low = 0, high = 0;

  double x(int64_t step) const {
    const auto span = static_cast<double>(std::max<int64_t>(1, history + horizon - 1 - first));
    return kLeft + (kWidth - kLeft - kRight) * static_cast<double>(step - first) / span;
  }
  double y(double value) const { return top + kTop + (kPanelHeight - kTop - kBottom) * (high - value) / (high - low); }
  double bottom() const { return top + kPanelHeight - kBottom; }
  // The left end of step t ahead: a forecast of one step gets a width, so that it can be seen.
  double left(int64_t t) const { return x(history + t) - (horizon == 1 ? 4 : 0); }
  double right(int64_t t) const { return x(history + t) + (horizon == 1 ? 4 : 0); }
  double quantile(int64_t t, size_t q) const { return forecast.quantiles[static_cast<size_t>(t) * levels.size() + q]; }
};

void find_range(Panel& panel) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  const auto take = [&](double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  };
  for (int64_t i = panel.first; i < panel.history; ++i) take(panel.series.values[static_cast<size_t>(i)]);
  for (const double value : panel.forecast.median) take(value);
  for (const double value : panel.forecast.quantiles) take(value);
  if (!(low <= high)) low = high = 0;
  double margin = 0.06 * (high - low);
  if (!(margin > 0)) margin = std::max(1.0, std::abs(high) * 0.05);
  panel.low = low - margin;
  panel.high = high + margin;
}

void draw_axes(const Panel& panel, std::string& out) {
  const double step = tick_step(panel.high - panel.low, 5);
  const double first = std::ceil(panel.low / step);
  // An integer counts the ticks, since adding 1 to a double of 2^53 or more does not change it.
  for (int64_t i = 0; i < kMostTicks; ++i) {
    const double k = first + static_cast<double>(i);
    if (!(k * step <= panel.high)) break;
    const double y = panel.y(k * step);
    out += fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='#e2e8f0'/>\n", kLeft, y,
                       kWidth - kRight, y);
    out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='end'>{:.6g}</text>\n", kLeft - 8, y + 4,
                       k == 0 ? 0.0 : k * step);
  }
  const int64_t steps = panel.history + panel.horizon - panel.first;
  const int64_t labels = std::min<int64_t>(6, steps);
  for (int64_t i = 0; i < labels; ++i) {
    const int64_t at = panel.first + (labels == 1 ? 0 : i * (steps - 1) / (labels - 1));
    const int64_t time = panel.table.frequency.advance(panel.series.start, at);
    const char* anchor = i == 0 ? "start" : i + 1 == labels ? "end" : "middle";
    out += fmt::format("<line x1='{0:.1f}' y1='{1:.1f}' x2='{0:.1f}' y2='{2:.1f}' stroke='#94a3b8'/>\n", panel.x(at),
                       panel.bottom(), panel.bottom() + 5);
    out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='{}'>{}</text>\n", panel.x(at), panel.bottom() + 20,
                       anchor, text::xml_text(format_timestamp(time, panel.table.style)));
  }
  out += fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='#94a3b8'/>\n", kLeft,
                     panel.bottom(), kWidth - kRight, panel.bottom());
}

// Draws the band between the q-th level from below and the q-th from above.
void draw_band(const Panel& panel, size_t q, std::string& out) {
  std::string points;
  const auto add = [&](double x, double value) { points += fmt::format("{:.1f},{:.1f} ", x, panel.y(value)); };
  for (int64_t t = 0; t < panel.horizon; ++t) {
    const double value = panel.quantile(t, panel.levels.size() - 1 - q);
    add(panel.left(t), value);
    if (panel.horizon == 1) add(panel.right(t), value);
  }
  for (int64_t t = panel.horizon - 1; t >= 0; --t) {
    add(panel.right(t), panel.quantile(t, q));
    if (panel.horizon == 1) add(panel.left(t), panel.quantile(t, q));
  }
  points.pop_back();
  out += fmt::format("<polygon points='{}' fill='{}' fill-opacity='0.13' stroke='none'/>\n", points, kForecastColor);
}

// Draws the history: its line breaks where values are missing; a value between two gaps is a dot.
void draw_history(const Panel& panel, std::string& out) {
  std::string points;
  int64_t run = 0;
  const auto end_run = [&] {
    if (run == 1) {
      const size_t comma = points.find(',');
      out += fmt::format("<circle cx='{}' cy='{}' r='1.8' fill='{}'/>\n", points.substr(0, comma),
                         points.substr(comma + 1, points.size() - comma - 2), kHistoryColor);
    } else if (run > 1) {
      points.pop_back();
      out += fmt::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='1.6'/>\n", points, kHistoryColor);
    }
    points.clear();
    run = 0;
  };
  for (int64_t i = panel.first; i < panel.history; ++i) {
    const double value = panel.series.values[static_cast<size_t>(i)];
    if (std::isnan(value)) {
      end_run();
      continue;
    }
    points += fmt::format("{:.1f},{:.1f} ", panel.x(i), panel.y(value));
    ++run;
  }
  end_run();
}

void draw_median(const Panel& panel, std::string& out) {
  std::string points;
  for (int64_t t = 0; t < panel.horizon; ++t) {
    const double y = panel.y(panel.forecast.median[static_cast<size_t>(t)]);
    points += fmt::format("{:.1f},{:.1f} ", panel.left(t), y);
    if (panel.horizon == 1) points += fmt::format("{:.1f},{:.1f} ", panel.right(t), y);
  }
  points.pop_back();
  out += fmt::format("<polyline points='{}' fill='none' stroke='{}' stroke-width='2.2'/>\n", points, kForecastColor);
  const double cut = panel.x(std::max(panel.first, panel.history - 1));
  out += fmt::format(
      "<line x1='{0:.1f}' y1='{1:.1f}' x2='{0:.1f}' y2='{2:.1f}' stroke='#64748b' "
      "stroke-dasharray='3 4'/>\n",
      cut, panel.top + kTop, panel.bottom());
}

void draw_title(const Panel& panel, std::string& out) {
  const double y = panel.top + 26;
  out += fmt::format("<text x='{:.1f}' y='{:.1f}' font-size='16' font-weight='bold'>{}</text>\n", kLeft, y,
                     text::xml_text(panel.series.id));
  double x = kWidth - kRight;
  const size_t bands = panel.levels.size() / 2;
  std::string range;
  for (size_t q = 0; q < bands; ++q) {
    range += fmt::format("{}{:g}-{:g}%", q == 0 ? "" : ", ", panel.levels[q] * 100,
                         panel.levels[panel.levels.size() - 1 - q] * 100);
  }
  const std::string text = "history, median" + (bands == 0 ? "" : ", bands " + range);
  out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='end' fill='#475569'>", x, y);
  out += fmt::format("<tspan fill='{}'>&#9632;</tspan> history  <tspan fill='{}'>&#9632;</tspan> {}</text>\n",
                     kHistoryColor, kForecastColor, text.substr(9));
}

}  // namespace

std::string plot_forecasts(const SeriesTable& table, const std::vector<SeriesForecast>& forecasts,
                           const std::vector<double>& levels) {
  const size_t panels = std::min(kPanels, forecasts.size());
  const double height = kPanelHeight * static_cast<double>(panels);
  std::string out = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' width='{0:g}' height='{1:g}' viewBox='0 0 {0:g} {1:g}' "
      "font-family='sans-serif' font-size='12' fill='#1e293b'>\n<rect width='{0:g}' height='{1:g}' fill='white'/>\n",
      kWidth, height);
  for (size_t s = 0; s < panels; ++s) {
    Panel panel{table, table.series[s], forecasts[s], levels, kPanelHeight * static_cast<double>(s)};
    panel.history = static_cast<int64_t>(panel.series.values.size());
    panel.horizon = static_cast<int64_t>(panel.forecast.median.size());
    panel.first = std::max<int64_t>(0, panel.history - std::max(kMinHistory, 4 * panel.horizon));
    find_range(panel);
    draw_axes(panel, out);
    for (size_t q = 0; q < levels.size() / 2; ++q) draw_band(panel, q, out);
    draw_history(panel, out);
    draw_median(panel, out);
    draw_title(panel, out);
  }
  return out + "</svg>\n";
}

}  // namespace carousel::forecast
