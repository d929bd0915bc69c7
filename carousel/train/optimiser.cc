// SPDX-License-Identifier: Apache-2.0
// Ranges of parameters that are treated alike, and the steps over them.
#include "carousel/train/optimiser.h"

#include <algorithm>
#include <cmath>

#include "carousel/model/families/family.h"
#include "carousel/ops/optimiser/adamw.h"
#include "carousel/ops/optimiser/muon.h"

namespace carousel::train {
namespace {

/// The rule of the xlstm package, which names tell: weights of projections and convolutions decay; norms, the table of
/// tokens, and what is called otherwise (skips, recurrent kernels, biases, cells) do not.
bool decays_in_paper(const std::string& name) {
  return name.find("weight") != std::string::npos && name.find("norm") == std::string::npos &&
         name != "embeddings.weight";
}

}  // namespace

const std::vector<std::string>& method_names() {
  static const std::vector<std::string> names = {"adamw", "muon", "sgd"};
  return names;
}

Optimiser::Optimiser(model::TrainedParams& params, const Stream& stream, const OptimiserOptions& options,
                     Processes& processes)
    : params_(params), stream_(stream), options_(options), processes_(processes), arena_(*stream.memory) {
  find_ranges();
  cut_into_shards();
  const Shape shard = {shard_end() - shard_first()};
  m_ = Tensor(shard, DType::kF32, *stream.memory);
  if (options.method != OptimiserOptions::Method::kSgd) v_ = Tensor(shard, DType::kF32, *stream.memory);
}

/// Those of all processes, in the flat arrays.
void Optimiser::find_ranges() {
  for (const model::TrainedParam& param : params_.params()) {
    if (!param.trained) continue;
    const bool paper = options_.decays == OptimiserOptions::Decays::kPaper;
    const bool decays = paper ? decays_in_paper(param.name) : param.shape.rank() >= 2;
    const int64_t count = param.shape.count();
    const Kind kind = kind_of(param);
    const bool joins = kind != Kind::kMuon && !ranges_.empty() && ranges_.back().kind == kind &&
                       ranges_.back().decays == decays && ranges_.back().first <= param.first;
    if (joins) {
      ranges_.back().count = param.first + count - ranges_.back().first;  // what lies between is zero, and stays so
    } else {
      ranges_.push_back({param.first, count, decays, kind, kind == Kind::kMuon ? param.shape[1] : 0});
    }
  }
}

/// Leaves the ranges of this process's shard. Elements are updated each by itself, but for the matrices of Muon.
void Optimiser::cut_into_shards() {
  std::vector<std::pair<int64_t, int64_t>> wholes;
  for (const Range& range : ranges_) {
    const int64_t end = (range.first + range.count + kCutElements - 1) / kCutElements * kCutElements;
    if (range.kind == Kind::kMuon) wholes.emplace_back(range.first, end);
  }
  cuts_ = cut_evenly(params_.gradients().count(), processes_.size(), wholes);
  std::vector<Range> mine;
  for (Range range : ranges_) {
    const int64_t first = std::max(range.first, shard_first()), end = std::min(range.first + range.count, shard_end());
    if (first >= end) continue;
    range.first = first - shard_first();
    range.count = end - first;
    mine.push_back(range);
  }
  ranges_ = std::move(mine);
}

size_t Optimiser::moment_bytes() const {
  if (!v_.defined()) return m_.size_bytes();
  size_t bytes = m_.size_bytes() + v_.size_bytes();
  for (const Range& range : ranges_) {
    if (range.kind == Kind::kMuon) bytes -= static_cast<size_t>(range.count) * sizeof(float);
  }
  return bytes;
}

Optimiser::Kind Optimiser::kind_of(const model::TrainedParam& param) const {
  if (options_.method == OptimiserOptions::Method::kSgd) return Kind::kSgd;
  if (options_.method == OptimiserOptions::Method::kAdamW) return Kind::kAdamW;
  const Init& init = param.init;
  // Parameters outside blocks belong to no layer. An orthogonal update has no zeros, so a masked matrix cannot have
  // one.
  const bool in_block = !params_.adapter().modules.empty() || model::split_layer(param.name).layer >= 0;
  const bool takes = param.matrix && in_block && init.mask == nullptr && (!init.gate || options_.muon_gates);
  return takes ? Kind::kMuon : Kind::kAdamW;
}

double Optimiser::norm() const {
  double squares = ops::sum_of_squares(stream_, params_.gradients().rows(shard_first(), shard_end()));
  processes_.sum({&squares, 1});
  return std::sqrt(squares);
}

void Optimiser::step_range(const Range& range, double rate, float grad_scale) {
  const float decay = range.decays ? options_.decay : 0;
  const auto lr = static_cast<float>(rate);
  const Tensor masters = params_.masters().rows(shard_first(), shard_end()),
               gradients = params_.gradients().rows(shard_first(), shard_end());
  switch (range.kind) {
    case Kind::kAdamW: {
      const ops::AdamW adamw = {lr, options_.beta1, options_.beta2, options_.eps, decay, steps_ - skipped_, grad_scale};
      return ops::adamw(stream_, adamw, {masters, gradients, m_, v_, range.first, range.count});
    }
    case Kind::kMuon: {
      Ctx ctx{stream_, arena_};
      const auto muon_lr = static_cast<float>(rate * static_cast<double>(options_.muon_rate));
      const int64_t rows = range.cols > 0 ? range.count / range.cols : 0;
      return ops::muon(ctx, {.lr = muon_lr, .decay = decay, .grad_scale = grad_scale},
                       {masters, gradients, m_, range.first, rows, range.cols});
    }
    case Kind::kSgd:
      return ops::sgd(stream_, {lr, options_.beta1, decay, grad_scale},
                      {masters, gradients, m_, range.first, range.count});
  }
}

void Optimiser::step(double rate, double norm) {
  ++steps_;
  float grad_scale = 1;
  if (options_.clip > 0) {
    grad_scale = static_cast<float>(std::min(1.0, static_cast<double>(options_.clip) / (norm + 1e-6)));
  }
  for (const Range& range : ranges_) step_range(range, rate, grad_scale);
  processes_.spread_shards(params_.masters(), cuts_);
  params_.finish_step();
}

}  // namespace carousel::train
