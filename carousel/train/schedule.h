// SPDX-License-Identifier: Apache-2.0
// The learning rate of a step: warmup, then a curve. Everything is a function of the step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace carousel::train {

/// So many steps, or a fraction of all.
struct Span {
  double value = 0;
  bool is_fraction = false;

  /// "20" (steps) or "2%". Throws Error(kUsage) naming the option.
  static Span parse(const std::string& option, const std::string& text);
  /// The steps among `all`; a fraction is rounded to the nearest.
  int64_t steps(int64_t all) const;
};

struct Schedule {
  enum class Kind {
    kCosine,    // half a cosine from lr to the least rate
    kWsd,       // warmup, stable, decay: lr, then a line down to the least rate over the cooldown
    kLinear,    // a line
    kExp,       // a constant factor a step
    kConstant,  // lr
  };
  Kind kind = Kind::kCosine;
  double lr = 1e-3;
  double lr_min = 0.1;  // the least rate as a fraction of lr; kExp needs it above 0
  Span warmup{0.02, true};
  Span cooldown{0.2, true};  // kWsd alone
  int64_t steps = 1;         // of the whole run

  static Kind kind_of(const std::string& name);  // "cosine", ...; throws Error(kUsage)
  static const std::vector<std::string>& names();
  /// Throws Error(kUsage) for values that make no curve: warmup and cooldown longer than the run, ...
  void check() const;
  /// The rate of step 0 <= step < steps: lr (step + 1) / w in the w steps of the warmup, then the curve, whose end
  /// would be reached by step `steps`.
  double at(int64_t step) const;

 private:
  int64_t cooldown_steps() const;
};

}  // namespace carousel::train
