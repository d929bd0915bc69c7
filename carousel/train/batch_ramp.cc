// SPDX-License-Identifier: Apache-2.0
// The parts of a ramp, read and summed.
#include "carousel/train/batch_ramp.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "carousel/core/error.h"

namespace carousel::train {
namespace {

constexpr int64_t kMostRows = 1 << 20;

/// Reads an integer off the front of `text`; false where none is there.
bool take_integer(std::string_view& text, int64_t& out) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), out);
  if (parsed.ec != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(parsed.ptr - text.data()));
  return true;
}

bool take(std::string_view& text, char c) {
  if (!text.starts_with(c)) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

BatchRamp BatchRamp::parse(const std::string& text) {
  BatchRamp ramp(0);
  ramp.parts_.clear();
  std::string_view rest = text;
  do {
    Part part = {};
    const bool read = take_integer(rest, part.rows) && take(rest, '@') && take_integer(rest, part.first_step);
    const bool follows = ramp.parts_.empty() ? part.first_step == 0 : part.first_step > ramp.parts_.back().first_step;
    if (!read || !follows || part.rows < 1 || part.rows > kMostRows) {
      fail(ErrorKind::kUsage, "--batch-ramp: got \"{}\", expected ROWS@STEP like 128@0,256@2000, steps rising from 0",
           text);
    }
    ramp.parts_.push_back(part);
  } while (take(rest, ','));
  if (!rest.empty()) {
    fail(ErrorKind::kUsage, "--batch-ramp: got \"{}\", expected a comma before \"{}\"", text, rest);
  }
  return ramp;
}

int64_t BatchRamp::at(int64_t step) const {
  const auto later =
      std::find_if(parts_.begin(), parts_.end(), [step](const Part& part) { return part.first_step > step; });
  return (later - 1)->rows;
}

int64_t BatchRamp::most() const {
  return std::max_element(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) { return a.rows < b.rows; })
      ->rows;
}

int64_t BatchRamp::steps(double rows) const {
  for (size_t i = 0; i + 1 < parts_.size(); ++i) {
    const int64_t steps = parts_[i + 1].first_step - parts_[i].first_step;
    const double taken = static_cast<double>(steps) * static_cast<double>(parts_[i].rows);
    if (taken >= rows) {
      return std::max<int64_t>(
          1, parts_[i].first_step + static_cast<int64_t>(std::ceil(rows / static_cast<double>(parts_[i].rows))));
    }
    rows -= taken;
  }
  const Part& last = parts_.back();
  return std::max<int64_t>(1, last.first_step + static_cast<int64_t>(std::ceil(rows / static_cast<double>(last.rows))));
}

}  // namespace carousel::train
