// SPDX-License-Identifier: Apache-2.0
// Draws a circuit as SVG: columns of neurons, curves of synapses, a legend.
#include "carousel/cli/wiring_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "carousel/text/xml.h"

namespace carousel::cli {
namespace {

using blocks::Wiring;

constexpr double kColumnGap = 220;  // pixels, as every length here
constexpr double kRowGap = 34;
constexpr double kRadius = 10;
constexpr double kMargin = 70;
constexpr double kTop = 90;     // the title and the columns' names
constexpr double kBottom = 60;  // the legend
constexpr const char* kExcitatory = "#1a7f5a";
constexpr const char* kInhibitory = "#c0392b";

struct Column {
  const char* name;
  const char* fill;
  std::vector<int64_t> neurons;
};

struct Point {
  double x = 0, y = 0;
};

class Drawing {
 public:
  explicit Drawing(const Wiring& wiring) : wiring_(wiring), at_(static_cast<size_t>(wiring.units)) {
    Column sensory{"sensory", "#e8c15a", {}};
    for (int64_t i = 0; i < wiring.input_dim; ++i) sensory.neurons.push_back(i);
    columns_ = {sensory, {"inter", "#8fb8de", {}}, {"command", "#b79ad6", {}}, {"motor", "#e69a6b", {}}};
    for (int64_t id = 0; id < wiring.units; ++id) {
      const Wiring::Role role = wiring.role(id);
      const size_t column = role == Wiring::Role::kInter ? 1 : role == Wiring::Role::kCommand ? 2 : 3;
      columns_[column].neurons.push_back(id);
    }
    std::erase_if(columns_, [](const Column& column) { return column.neurons.empty(); });
    place();
  }

  std::string svg() {
    const std::string title = wiring_summary(wiring_);
    const double text_width = 6.4 * static_cast<double>(title.size()) + 2 * kMargin;
    const double width = std::max(2 * kMargin + kColumnGap * static_cast<double>(columns_.size() - 1), text_width);
    out_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
        "{1:.0f}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" "
        "fill=\"white\"/>\n<text x=\"{2}\" y=\"32\" fill=\"#333\">{3}</text>\n",
        width, height_, kMargin - 30, text::xml_text(title));
    synapses();
    neurons();
    legend();
    return out_ + "</svg>\n";
  }

 private:
  void place() {
    size_t most = 1;
    for (const Column& column : columns_) most = std::max(most, column.neurons.size());
    const double inner = kRowGap * static_cast<double>(most);
    height_ = kTop + inner + kBottom;
    sensory_.resize(static_cast<size_t>(wiring_.input_dim));
    for (size_t c = 0; c < columns_.size(); ++c) {
      const auto count = static_cast<double>(columns_[c].neurons.size());
      for (size_t i = 0; i < columns_[c].neurons.size(); ++i) {
        const double y = kTop + inner / 2 + (static_cast<double>(i) - (count - 1) / 2) * kRowGap;
        const Point point{kMargin + kColumnGap * static_cast<double>(c), y};
        (c == 0 ? sensory_ : at_)[static_cast<size_t>(columns_[c].neurons[i])] = point;
      }
    }
  }

  /// A bar across the curve's end, or an arrow head; (dx, dy) points along it.
  void ending(Point tip, double dx, double dy, int8_t sign) {
    const double length = std::hypot(dx, dy);
    dx /= length;
    dy /= length;
    constexpr double kBar = 5, kHead = 7;
    if (sign < 0) {
      out_ += fmt::format(
          "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
          "stroke-width=\"2.2\"/>\n",
          tip.x - dy * kBar, tip.y + dx * kBar, tip.x + dy * kBar, tip.y - dx * kBar, kInhibitory);
      return;
    }
    const Point back{tip.x - dx * kHead, tip.y - dy * kHead};
    out_ += fmt::format("<path d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}L{:.1f} {:.1f}Z\" fill=\"{}\"/>\n", tip.x, tip.y,
                        back.x - dy * kHead / 2, back.y + dx * kHead / 2, back.x + dy * kHead / 2,
                        back.y - dx * kHead / 2, kExcitatory);
  }

  void curve(Point from, Point a, Point b, Point to, int8_t sign) {
    out_ += fmt::format(
        "<path d=\"M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}\" fill=\"none\" "
        "stroke=\"{}\" stroke-opacity=\"{:.2f}\" stroke-width=\"1.3\"/>\n",
        from.x, from.y, a.x, a.y, b.x, b.y, to.x, to.y, sign > 0 ? kExcitatory : kInhibitory, opacity_);
    ending(to, to.x - b.x, to.y - b.y, sign);
  }

  void synapse(Point from, Point to, int8_t sign) {
    const double gap = kRadius + 2;
    if (std::abs(from.x - to.x) < 1) {  // within a column: around its right side
      if (std::abs(from.y - to.y) < 1) {
        curve({to.x + 7, to.y - 7}, {to.x + 34, to.y - 20}, {to.x + 36, to.y + 16}, {to.x + gap - 1, to.y + 5}, sign);
        return;
      }
      const double bulge = 30 + 0.28 * std::abs(from.y - to.y);
      const double turn = from.y < to.y ? -4 : 4;  // leaves room for the opposite synapse
      curve({from.x + kRadius * 0.7, from.y}, {from.x + bulge, from.y}, {to.x + bulge, to.y + turn},
            {to.x + gap, to.y + turn}, sign);
      return;
    }
    const double side = from.x < to.x ? 1 : -1;
    const double reach = std::abs(to.x - from.x) * 0.45;
    curve({from.x + side * kRadius, from.y}, {from.x + side * reach, from.y}, {to.x - side * reach, to.y},
          {to.x - side * gap, to.y}, sign);
  }

  void synapses() {
    const auto count = static_cast<double>(wiring_.synapse_count() + wiring_.sensory_synapse_count());
    opacity_ = std::clamp(9.0 / std::sqrt(count + 1), 0.12, 0.8);
    for (int64_t j = 0; j < wiring_.units; ++j) {
      const Point to = at_[static_cast<size_t>(j)];
      for (int64_t i = 0; i < wiring_.input_dim; ++i) {
        if (const int8_t sign = wiring_.sensory_synapse(i, j)) synapse(sensory_[static_cast<size_t>(i)], to, sign);
      }
      for (int64_t i = 0; i < wiring_.units; ++i) {
        if (const int8_t sign = wiring_.synapse(i, j)) synapse(at_[static_cast<size_t>(i)], to, sign);
      }
    }
  }

  void neurons() {
    for (size_t c = 0; c < columns_.size(); ++c) {
      const double x = kMargin + kColumnGap * static_cast<double>(c);
      out_ += fmt::format(
          "<text x=\"{:.1f}\" y=\"62\" text-anchor=\"middle\" font-size=\"14\" fill=\"#333\">{} "
          "({})</text>\n",
          x, columns_[c].name, columns_[c].neurons.size());
      for (const int64_t id : columns_[c].neurons) {
        const Point point = (c == 0 ? sensory_ : at_)[static_cast<size_t>(id)];
        out_ += fmt::format(
            "<circle cx=\"{0:.1f}\" cy=\"{1:.1f}\" r=\"{2}\" fill=\"{3}\" stroke=\"#555\"/><text "
            "x=\"{0:.1f}\" y=\"{4:.1f}\" text-anchor=\"middle\" font-size=\"9\">{5}</text>\n",
            point.x, point.y, kRadius, columns_[c].fill, point.y + 3, id);
      }
    }
  }

  void legend() {
    const double y = height_ - 24;
    opacity_ = 0.9;
    const auto entry = [&](double x, int8_t sign, const char* name) {
      curve({x, y}, {x + 14, y}, {x + 26, y}, {x + 40, y}, sign);
      out_ += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" fill=\"#333\">{}</text>\n", x + 50, y + 4, name);
    };
    entry(kMargin - 30, 1, "excitatory");
    entry(kMargin + 110, -1, "inhibitory");
  }

  const Wiring& wiring_;
  std::vector<Column> columns_;  // those that have neurons
  std::vector<Point> sensory_;   // [I]
  std::vector<Point> at_;        // [N]
  double height_ = 0, opacity_ = 1;
  std::string out_;
};

}  // namespace

std::string wiring_svg(const Wiring& wiring) { return Drawing(wiring).svg(); }

std::string wiring_summary(const Wiring& wiring) {
  int64_t roles[3] = {};
  for (int64_t id = 0; id < wiring.units; ++id) ++roles[static_cast<size_t>(wiring.role(id))];
  const auto excitatory = std::count(wiring.adjacency.begin(), wiring.adjacency.end(), int8_t{1}) +
                          std::count(wiring.sensory.begin(), wiring.sensory.end(), int8_t{1});
  const int64_t all = wiring.synapse_count() + wiring.sensory_synapse_count();
  return fmt::format(
      "{}: {} sensory, {} inter, {} command, {} motor neurons; {} synapses ({} sensory), {} excitatory, {} "
      "inhibitory",
      wiring.type, wiring.input_dim, roles[0], roles[1], roles[2], all, wiring.sensory_synapse_count(), excitatory,
      all - excitatory);
}

}  // namespace carousel::cli
