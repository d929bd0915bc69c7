// SPDX-License-Identifier: Apache-2.0
// The types of mask a config may ask for, and which projection of a block has which.
#include "carousel/blocks/projection_wirings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "carousel/blocks/wiring.h"
#include "carousel/core/error.h"
#include "carousel/core/rng.h"

namespace carousel::blocks {
namespace {

/// round(rows * cols * (1 - sparsity)) live weights, spread over the rows as evenly as they divide; the columns of a
/// row are drawn without replacement (Floyd's algorithm), then the signs, as often -1 as 1. A row's draws are a stream
/// of their own: it depends on seed, name and number alone.
class RandomMask : public Mask {
 public:
  RandomMask(int64_t rows, int64_t cols, bool polarity, double sparsity, uint64_t seed, uint64_t stream)
      : Mask(rows, cols, polarity), seed_(seed), stream_(stream) {
    const double entries = static_cast<double>(rows) * static_cast<double>(cols);
    live_ = std::llround(entries * (1 - sparsity));
  }

  int64_t live_in_row(int64_t r) const override {
    const int64_t extra = live_ % rows();  // one more in so many rows
    return live_ / rows() + (r + 1) * extra / rows() - r * extra / rows();
  }

  void row(int64_t r, int8_t* signs) const override {
    Rng rng(seed_, stream_ + static_cast<uint64_t>(r));
    std::fill(signs, signs + cols(), int8_t{0});
    for (int64_t last = cols() - live_in_row(r); last < cols(); ++last) {
      const auto drawn = static_cast<int64_t>((rng.bits() * (static_cast<uint64_t>(last) + 1)) >> 32);
      signs[signs[drawn] == 0 ? drawn : last] = 1;
    }
    for (int64_t k = 0; polarity() && k < cols(); ++k) {
      if (signs[k] != 0 && rng.bits() % 2 == 0) signs[k] = -1;
    }
  }

 private:
  uint64_t seed_, stream_;
  int64_t live_;
};

/// The inputs of a circuit as the columns, its neurons as the rows.
std::shared_ptr<const Mask> sensory_mask(const Json& circuit, int64_t rows, int64_t cols, bool polarity,
                                         const std::string& where) {
  const Wiring wiring = make_wiring(circuit, cols, where);
  if (wiring.units != rows) {
    fail(ErrorKind::kInput, "{}: {} neurons, expected {}, the outputs of the projection", where, wiring.units, rows);
  }
  std::vector<int8_t> signs(static_cast<size_t>(rows * cols));
  for (int64_t k = 0; k < cols; ++k) {
    for (int64_t r = 0; r < rows; ++r) signs[static_cast<size_t>(r * cols + k)] = wiring.sensory_synapse(k, r);
  }
  return std::make_shared<MatrixMask>(rows, cols, polarity, std::move(signs));
}

struct Place {
  const std::string& full_name;
  int64_t rows, cols;
  bool polarity;
};

std::shared_ptr<const Mask> random_mask(Fields& fields, const Place& place) {
  const double sparsity = fields.number("sparsity", 0, 1);
  const auto seed = static_cast<uint64_t>(fields.integer("seed", 0, INT64_MAX, 0));
  const uint64_t stream = XXH3_64bits(place.full_name.data(), place.full_name.size());
  return std::make_shared<RandomMask>(place.rows, place.cols, place.polarity, sparsity, seed, stream);
}

/// A mask of any type but "checkpoint".
std::shared_ptr<const Mask> generate(const Json& entry, Fields& fields, const std::string& type, const Place& place) {
  if (type == "random") return random_mask(fields, place);
  if (type == "explicit") {
    return std::make_shared<MatrixMask>(place.rows, place.cols, place.polarity,
                                        read_signs(fields, "matrix", place.rows, place.cols));
  }
  Json circuit = entry;  // make_wiring knows its keys
  circuit.erase("polarity");
  if (type == "AutoNCP" && !circuit.contains("units")) circuit["units"] = place.rows;
  for (const auto& [key, value] : circuit.items()) fields.ignore({key.c_str()});
  return sensory_mask(circuit, place.rows, place.cols, place.polarity, fields.where());
}

Wirings::Found read_entry(const Json& entry, const std::string& where, const std::string& full_name, int64_t rows,
                          int64_t cols) {
  Fields fields(entry, where);
  if (rows > kMaxMaskEntries / cols) {
    fail(ErrorKind::kInput, "{}: a mask [{}, {}], expected at most {} entries", where, rows, cols, kMaxMaskEntries);
  }
  const std::string type = fields.choice("type", {"random", "NCP", "AutoNCP", "explicit", "checkpoint"}, std::nullopt);
  const Place place{full_name, rows, cols, fields.boolean("polarity", false)};
  Wirings::Found found;
  found.stored = type == "checkpoint";
  if (!found.stored) {
    found.mask = generate(entry, fields, type, place);
  } else if (fields.has("init")) {
    const Json drawn = fields.object("init");
    Fields inner(drawn, where + ": \"init\"");
    const std::string drawn_type = inner.choice("type", {"random", "NCP", "AutoNCP", "explicit"}, std::nullopt);
    found.mask = generate(drawn, inner, drawn_type, place);
    inner.finish();
  } else {
    fields.ignore({"init"});
    found.mask = std::make_shared<RandomMask>(rows, cols, place.polarity, 0.0, 0, 0);  // all live
  }
  fields.finish();
  return found;
}

/// "experts.3.up" -> "experts.*.up"
std::string starred(const std::string& name) {
  std::string out;
  for (size_t begin = 0, end = 0; begin <= name.size(); begin = end + 1) {
    end = std::min(name.find('.', begin), name.size());
    const std::string piece = name.substr(begin, end - begin);
    const bool number = !piece.empty() && piece.find_first_not_of("0123456789") == std::string::npos;
    out += (begin == 0 ? "" : ".") + (number ? "*" : piece);
  }
  return out;
}

}  // namespace

ProjectionWirings::ProjectionWirings(Json& section, const std::string& where) : where_(where + ": \"wiring\"") {
  const auto wiring = section.find("wiring");
  if (wiring == section.end() || wiring->is_null() || is_circuit(*wiring)) return;
  if (!wiring->is_object()) {
    fail(ErrorKind::kInput, "{} is {}, expected an object with a wiring per projection", where_, brief(*wiring));
  }
  by_name_ = *wiring;
  section.erase("wiring");
}

Wirings::Found ProjectionWirings::find(const std::string& name, const std::string& full_name, int64_t rows,
                                       int64_t cols) {
  const std::string any = starred(name);
  if (std::find(known_.begin(), known_.end(), any) == known_.end()) known_.push_back(any);
  for (const std::string& key : {name, any, std::string("*")}) {
    const auto entry = by_name_.find(key);
    if (entry == by_name_.end()) continue;
    used_.push_back(key);
    return read_entry(*entry, fmt::format("{}: \"{}\"", where_, key), full_name, rows, cols);
  }
  return {};
}

void ProjectionWirings::finish(Fields& options) const {
  if (options.has("wiring") && !options.knows("wiring")) {
    fail(ErrorKind::kInput, "{} is a wiring itself, expected one per projection, of: {}", where_, projections());
  }
  options.ignore({"wiring"});
  for (const auto& [key, entry] : by_name_.items()) {
    if (std::find(used_.begin(), used_.end(), key) != used_.end()) continue;
    fail(ErrorKind::kInput, "{}: unknown projection \"{}\"; projections of this block: {}", where_, key, projections());
  }
}

std::string ProjectionWirings::projections() const {
  return known_.empty() ? "none" : fmt::format("{}", fmt::join(known_, ", "));
}

}  // namespace carousel::blocks
