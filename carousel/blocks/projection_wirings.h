// SPDX-License-Identifier: Apache-2.0
// The "wiring" of a block's config section: sparsity masks of its projections, from generators, matrices or the file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/ops/weight/mask.h"

namespace carousel::blocks {

/// Most entries a mask may have.
constexpr int64_t kMaxMaskEntries = int64_t{1} << 32;

/// {"q": {"type": "random", "sparsity": 0.9, "seed": 1, "polarity": true}, "experts.*.up": {...}}: projections by their
/// name in the block, * for any number, and "*" alone for all that are not named. docs/formats.md lists the types.
class ProjectionWirings : public Wirings {
 public:
  /// Takes the key "wiring" out of a block's section, unless it is a circuit, which the block itself reads. Throws
  /// Error(kInput).
  ProjectionWirings(Json& section, const std::string& where);
  Found find(const std::string& name, const std::string& full_name, int64_t rows, int64_t cols) override;
  /// Throws Error(kInput) that lists the block's projections when the section names one that the block does not have,
  /// or when `options` hold a circuit that the block did not read.
  void finish(Fields& options) const;

 private:
  std::string projections() const;

  std::string where_;
  Json by_name_ = Json::object();
  std::vector<std::string> used_;   // keys of by_name_
  std::vector<std::string> known_;  // the block's projections, numbers as *
};

}  // namespace carousel::blocks
