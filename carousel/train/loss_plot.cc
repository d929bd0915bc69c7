// SPDX-License-Identifier: Apache-2.0
// Draws loss curves as SVG. A long run has more steps than the picture has columns: values are averaged per column, and
// a running mean is drawn over them.
#include "carousel/train/loss_plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "carousel/core/error.h"
#include "carousel/core/ticks.h"
#include "carousel/text/xml.h"

namespace carousel::train {
namespace {

constexpr double kWidth = 960, kHeight = 520, kLeft = 76, kRight = 24, kTop = 24, kBottom = 50;
constexpr int kColumns = 860;
constexpr int64_t kMostTicks = 50;  // an axis has about ten
constexpr const char* kColors[kMostCurves] = {"#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#b45309", "#0e7490",
                                              "#be185d", "#4d7c0f", "#334155", "#a16207", "#6d28d9", "#0f766e"};

struct Point {
  double step = 0, value = 0;
};

std::vector<Point> points_of(const RunCurve& run, const std::string& name) {
  std::vector<Point> out;
  for (const LogLine& line : run.lines) {
    for (const Measure& measure : line.measures) {
      if (measure.name == name) out.push_back({static_cast<double>(line.step), measure.value});
    }
  }
  return out;
}

struct Frame {
  double first = std::numeric_limits<double>::infinity(), last = -std::numeric_limits<double>::infinity();  // steps
  double low = first, high = -first;                                                                        // losses

  double x(double step) const { return kLeft + (kWidth - kLeft - kRight) * (step - first) / (last - first); }
  double y(double value) const {
    const double clipped = std::clamp(value, low, high);
    return kTop + (kHeight - kTop - kBottom) * (high - clipped) / (high - low);
  }
};

// The highest hundredth is cut off: the first steps of a run from scratch would press the rest flat.
constexpr double kShareShown = 0.99;

void take(std::vector<Point> points, Frame& frame) {
  if (points.empty()) return;
  frame.first = std::min(frame.first, points.front().step);
  frame.last = std::max(frame.last, points.back().step);
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.value < b.value; });
  const auto highest = static_cast<size_t>(kShareShown * static_cast<double>(points.size() - 1));
  frame.low = std::min(frame.low, points.front().value);
  frame.high = std::max(frame.high, points[highest].value);
}

Frame frame_of(const std::vector<RunCurve>& runs) {
  Frame frame;
  for (const RunCurve& run : runs) {
    take(points_of(run, kLoss), frame);
    take(points_of(run, kValidLoss), frame);
  }
  if (!(frame.first <= frame.last)) fail(ErrorKind::kInput, "plot: no \"{}\" in the logs, expected one to draw", kLoss);
  // Above 2^53 the next number is further away than 1.
  if (frame.first == frame.last) frame.last = std::max(frame.first + 1, std::nextafter(frame.first, INFINITY));
  double margin = 0.05 * (frame.high - frame.low);
  if (!(margin > 0)) margin = std::max(0.05 * std::abs(frame.high), 1e-6);
  frame.low -= margin;
  frame.high += margin;
  return frame;
}

/// Means over columns of the picture.
std::vector<Point> thinned(const std::vector<Point>& points, const Frame& frame) {
  std::vector<Point> out;
  int64_t column = -1;
  double count = 0;
  for (const Point& point : points) {
    const auto here = static_cast<int64_t>((point.step - frame.first) / (frame.last - frame.first) * kColumns);
    if (here != column) {
      out.push_back({0, 0});
      count = 0;
    }
    column = here;
    ++count;
    out.back().step += (point.step - out.back().step) / count;
    out.back().value += (point.value - out.back().value) / count;
  }
  return out;
}

/// The mean of the values around each: 2 % of them on either side.
std::vector<Point> smoothed(const std::vector<Point>& points) {
  const auto half = static_cast<int64_t>(points.size() / 50), count = static_cast<int64_t>(points.size());
  std::vector<double> sums{0};
  for (const Point& point : points) sums.push_back(sums.back() + point.value);
  std::vector<Point> out;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t reach = std::min({half, i, count - 1 - i});
    const double sum = sums[static_cast<size_t>(i + reach + 1)] - sums[static_cast<size_t>(i - reach)];
    out.push_back({points[static_cast<size_t>(i)].step, sum / static_cast<double>(2 * reach + 1)});
  }
  return out;
}

void draw_line(const std::vector<Point>& points, const Frame& frame, const std::string& style, std::string& out) {
  if (points.empty()) return;
  std::string path;
  for (const Point& point : points) path += fmt::format("{:.1f},{:.1f} ", frame.x(point.step), frame.y(point.value));
  path.pop_back();
  out += fmt::format("<polyline points='{}' fill='none' {}/>\n", path, style);
}

// The multiples of `step` from low to high. An integer counts them, since adding 1 to a double of 2^53 or more does not
// change it, and a loop over that would not end.
std::vector<double> ticks(double low, double high, double step) {
  const double first = std::ceil(low / step);
  std::vector<double> out;
  for (int64_t i = 0; i < kMostTicks; ++i) {
    const double k = first + static_cast<double>(i);
    if (!(k * step <= high)) break;
    out.push_back(k == 0 ? 0.0 : k * step);
  }
  return out;
}

void draw_axes(const Frame& frame, std::string& out) {
  const double right = kWidth - kRight, bottom = kHeight - kBottom;
  const double loss_step = tick_step(frame.high - frame.low, 6);
  for (const double value : ticks(frame.low, frame.high, loss_step)) {
    const double y = frame.y(value);
    out +=
        fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='#e2e8f0'/>\n", kLeft, y, right, y);
    out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='end'>{:.6g}</text>\n", kLeft - 8, y + 4, value);
  }
  const double step = std::max(1.0, tick_step(frame.last - frame.first, 8));
  for (const double value : ticks(frame.first, frame.last, step)) {
    const double x = frame.x(value);
    out += fmt::format("<line x1='{0:.1f}' y1='{1:.1f}' x2='{0:.1f}' y2='{2:.1f}' stroke='#94a3b8'/>\n", x, bottom,
                       bottom + 5);
    out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='middle'>{:.0f}</text>\n", x, bottom + 20, value);
  }
  out += fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' stroke='#94a3b8'/>\n", kLeft, bottom, right,
                     bottom);
  out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='end' fill='#475569'>step</text>\n", right, bottom + 38);
  out += fmt::format("<text x='{:.1f}' y='{:.1f}' fill='#475569'>loss</text>\n", 12.0, kTop + 4);
}

void draw_run(const RunCurve& run, const Frame& frame, size_t number, std::string& out) {
  const char* color = kColors[number];
  const std::vector<Point> losses = thinned(points_of(run, kLoss), frame);
  draw_line(losses, frame, fmt::format("stroke='{}' stroke-opacity='0.3' stroke-width='1'", color), out);
  draw_line(smoothed(losses), frame, fmt::format("stroke='{}' stroke-width='1.8'", color), out);
  const std::vector<Point> valid = points_of(run, kValidLoss);
  draw_line(valid, frame, fmt::format("stroke='{}' stroke-width='1.2' stroke-dasharray='5 4'", color), out);
  for (const Point& point : thinned(valid, frame)) {
    out += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='3' fill='white' stroke='{}'/>\n", frame.x(point.step),
                       frame.y(point.value), color);
  }
  std::string last;
  if (!losses.empty()) last += fmt::format(" {:.4f}", smoothed(losses).back().value);
  if (!valid.empty()) last += fmt::format(", valid {:.4f}", valid.back().value);
  const double right = kWidth - kRight, y = kTop + 14 + 18 * static_cast<double>(number);
  out += fmt::format("<rect x='{:.1f}' y='{:.1f}' width='10' height='10' fill='{}'/>\n", right - 14, y - 9, color);
  out += fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='end'>{}{}</text>\n", right - 20, y,
                     text::xml_text(run.name), last);
}

}  // namespace

std::string plot_losses(const std::vector<RunCurve>& runs) {
  if (runs.size() > kMostCurves) {
    fail(ErrorKind::kInput, "plot: {} runs, expected at most {} in one picture", runs.size(), kMostCurves);
  }
  const Frame frame = frame_of(runs);
  std::string out = fmt::format(
      "<svg xmlns='http://www.w3.org/2000/svg' width='{0:g}' height='{1:g}' viewBox='0 0 {0:g} {1:g}' "
      "font-family='sans-serif' font-size='12' fill='#1e293b'>\n<rect width='{0:g}' height='{1:g}' fill='white'/>\n",
      kWidth, kHeight);
  draw_axes(frame, out);
  for (size_t i = 0; i < runs.size(); ++i) draw_run(runs[i], frame, i, out);
  return out + "</svg>\n";
}

}  // namespace carousel::train
