// SPDX-License-Identifier: Apache-2.0
// The curves of the learning rate.
#include "carousel/train/schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "carousel/core/error.h"

namespace carousel::train {
namespace {

constexpr double kPi = 3.141592653589793;

}  // namespace

Span Span::parse(const std::string& option, const std::string& text) {
  Span span;
  const bool percent = text.ends_with('%');
  const char* end = text.data() + text.size() - (percent ? 1 : 0);
  const auto [stop, error] = std::from_chars(text.data(), end, span.value);
  const bool number = error == std::errc() && stop == end && std::isfinite(span.value) && span.value >= 0;
  constexpr double kMostSteps = 1LL << 53;  // beyond it not every number of steps is a double
  const bool fits = percent ? span.value <= 100 : span.value == std::floor(span.value) && span.value <= kMostSteps;
  if (!number || !fits) {
    fail(ErrorKind::kUsage, "{}: got \"{}\", expected a number of steps, or a share of them from 0% to 100%", option,
         text);
  }
  if (percent) span = {span.value / 100, true};
  return span;
}

int64_t Span::steps(int64_t all) const {
  return is_fraction ? std::llround(value * static_cast<double>(all)) : static_cast<int64_t>(value);
}

const std::vector<std::string>& Schedule::names() {
  static const std::vector<std::string> kNames = {"cosine", "wsd", "linear", "exp", "constant"};
  return kNames;
}

Schedule::Kind Schedule::kind_of(const std::string& name) {
  const auto found = std::find(names().begin(), names().end(), name);
  if (found != names().end()) return static_cast<Kind>(found - names().begin());
  fail(ErrorKind::kUsage, "--schedule: got \"{}\", expected one of: {}", name, fmt::join(names(), ", "));
}

void Schedule::check() const {
  const int64_t rise = warmup.steps(steps), fall = kind == Kind::kWsd ? cooldown_steps() : 0;
  if (steps < 1) fail(ErrorKind::kUsage, "--steps: got {}, expected 1 or more", steps);
  if (!(lr > 0) || !std::isfinite(lr)) fail(ErrorKind::kUsage, "--lr: got {}, expected a number above 0", lr);
  if (!(lr_min >= 0 && lr_min <= 1)) {
    fail(ErrorKind::kUsage, "--lr-min: got {}, expected a fraction of --lr from 0 to 1", lr_min);
  }
  if (kind == Kind::kExp && lr_min == 0) {
    fail(ErrorKind::kUsage, "--lr-min: got 0, expected a fraction above 0, as --schedule exp never reaches 0");
  }
  if (rise + fall > steps) {
    fail(ErrorKind::kUsage, "--warmup: got {} steps and {} of --cooldown, expected at most the {} of the run", rise,
         fall, steps);
  }
}

/// Shares that make a whole together are rounded apart: the cooldown then takes what the warmup leaves.
int64_t Schedule::cooldown_steps() const {
  const int64_t fall = cooldown.steps(steps), left = steps - warmup.steps(steps);
  const bool fits = warmup.is_fraction && cooldown.is_fraction && warmup.value + cooldown.value <= 1;
  return fits ? std::min(fall, left) : fall;
}

double Schedule::at(int64_t step) const {
  const int64_t rise = warmup.steps(steps);
  if (step < rise) return lr * static_cast<double>(step + 1) / static_cast<double>(rise);
  const double least = lr * lr_min;
  const double way = static_cast<double>(step - rise) / static_cast<double>(std::max<int64_t>(1, steps - rise));
  switch (kind) {
    case Kind::kCosine:
      return least + 0.5 * (lr - least) * (1 + std::cos(kPi * std::min(1.0, way)));
    case Kind::kLinear:
      return lr + (least - lr) * std::min(1.0, way);
    case Kind::kExp:
      return lr * std::pow(lr_min, std::min(1.0, way));
    case Kind::kWsd: {
      const int64_t fall = cooldown_steps(), done = step - (steps - fall);
      if (done < 0) return lr;
      return lr +
             (least - lr) * std::min(1.0, static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, fall)));
    }
    case Kind::kConstant:
      break;
  }
  return lr;
}

}  // namespace carousel::train
