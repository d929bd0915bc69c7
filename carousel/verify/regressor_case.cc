// SPDX-License-Identifier: Apache-2.0
// Computes each expected tensor of a regressor's case, sequences cut in any way, and compares it.
#include "carousel/verify/regressor_case.h"

#include <fmt/format.h>

#include <cstring>
#include <map>

#include "carousel/blocks/wiring.h"
#include "carousel/core/error.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/ops/kernel.h"
#include "carousel/verify/sequence_cuts.h"
#include "carousel/verify/training_case.h"

namespace carousel::verify {
namespace {

using Status = Comparison::Status;

struct Computed {
  std::vector<float> y;       // [B, T, O]
  std::vector<State> states;  // [B]
};

class RegressorCase {
 public:
  RegressorCase(const std::string& folder, const Setup& setup)
      : folder_(folder),
        setup_(setup),
        where_(folder + "/expected.safetensors"),
        expected_(formats::SafetensorsFile::open(where_)),
        model_(model::load(folder, setup.stream, model::ModelKind::kRegressor, setup.numerics, setup.weights)),
        tolerance_(setup.tolerance(model_.config)),
        predictor_(*model_.regressor, setup.stream, *model_.numerics),
        x_(floats("x", Shape{-1, -1, model_.regressor->input_size()})) {
    if (expected_.find("timespans") != nullptr) elapsed_ = floats("timespans", Shape{x_.dim(0), x_.dim(1)});
  }

  std::vector<Comparison> compare();

 private:
  Tensor floats(const std::string& name, const Shape& shape) const;
  Computed compute(size_t first, size_t last, const Plan& plan);
  Computed compute_alone(const Plan& plan);
  bool same_bits(const Computed& a, const Computed& b) const;
  void compare_computed(const Computed& computed, const std::string& way);
  void compare_loss(const Computed& computed);
  void compare_wiring();
  Comparison& result(const std::string& name);

  std::string folder_;
  const Setup& setup_;
  std::string where_;
  formats::SafetensorsFile expected_;
  model::Model model_;
  double tolerance_;
  model::Predictor predictor_;
  Tensor x_;        // [B, T, I]
  Tensor elapsed_;  // [B, T], or empty
  std::map<std::string, Comparison> results_;
};

// The tensor `name`, checked; a dim of -1 matches any.
Tensor RegressorCase::floats(const std::string& name, const Shape& shape) const {
  const formats::TensorEntry* entry = expected_.find(name);
  if (entry == nullptr) fail(ErrorKind::kInput, "{}: \"{}\" is missing", where_, name);
  bool same = is_float(entry->dtype) && entry->shape.rank() == shape.rank() && entry->shape.count() > 0;
  for (int i = 0; same && i < shape.rank(); ++i) same = shape[i] < 0 || shape[i] == entry->shape[i];
  if (!same) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected floating-point numbers {}", where_, name,
         dtype_name(entry->dtype), entry->shape.str(), shape.str());
  }
  return entry->load().to_f32();
}

Comparison& RegressorCase::result(const std::string& name) {
  Comparison& comparison = results_[name];
  comparison.name = name;
  return comparison;
}

// Computes sequences first .. last - 1 by a plan for them.
Computed RegressorCase::compute(size_t first, size_t last, const Plan& plan) {
  const auto inputs = static_cast<size_t>(x_.dim(2)), length = static_cast<size_t>(x_.dim(1));
  const auto outputs = static_cast<size_t>(model_.regressor->output_size());
  Computed out;
  out.states.resize(last - first);
  out.y.resize((last - first) * length * outputs);
  std::vector<State*> states;
  for (State& state : out.states) states.push_back(&state);
  for (const std::vector<int64_t>& lengths : plan) {
    std::vector<size_t> rows;  // the row of the case for every row of this step
    for (size_t s = 0; s < states.size(); ++s) {
      for (int64_t t = 0; t < lengths[s]; ++t) {
        rows.push_back((first + s) * length + static_cast<size_t>(states[s]->pos() + t));
      }
    }
    const auto count = static_cast<int64_t>(rows.size());
    const Tensor x(Shape{count, x_.dim(2)}, DType::kF32);
    const Tensor elapsed = elapsed_.defined() ? Tensor(Shape{count}, DType::kF32) : Tensor();
    for (size_t n = 0; n < rows.size(); ++n) {
      std::memcpy(x.f32() + n * inputs, x_.f32() + rows[n] * inputs, inputs * sizeof(float));
      if (elapsed.defined()) elapsed.f32()[n] = elapsed_.f32()[rows[n]];
    }
    const Tensor y = predictor_.forward(x, elapsed, states, lengths).to_host();  // [N, O]
    for (size_t n = 0; n < rows.size(); ++n) {
      std::memcpy(&out.y[(rows[n] - first * length) * outputs], y.f32() + n * outputs, outputs * sizeof(float));
    }
  }
  return out;
}

Computed RegressorCase::compute_alone(const Plan& plan) {
  Computed out;
  for (size_t s = 0; s < static_cast<size_t>(x_.dim(0)); ++s) {
    const Computed one = compute(s, s + 1, column(plan, s));
    out.y.insert(out.y.end(), one.y.begin(), one.y.end());
    out.states.push_back(one.states.front());
  }
  return out;
}

bool RegressorCase::same_bits(const Computed& a, const Computed& b) const {
  return std::memcmp(a.y.data(), b.y.data(), a.y.size() * sizeof(float)) == 0 &&
         same_states(a.states, b.states, model_.state_layout());
}

// Compares y, and h.0, h.1, ...: the states in the order of the layout.
void RegressorCase::compare_computed(const Computed& computed, const std::string& way) {
  const Tensor y = floats("y", Shape{x_.dim(0), x_.dim(1), model_.regressor->output_size()});
  fold(result("y"), computed.y.data(), y.f32(), computed.y.size(), {way, tolerance_});
  const std::vector<StateLayout::Entry>& entries = model_.state_layout().entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string name = fmt::format("h.{}", i);
    if (expected_.find(name) == nullptr) continue;
    const Tensor want = floats(name, Shape{x_.dim(0), entries[i].spec.shape.count()});
    std::vector<float> got;
    for (const State& state : computed.states) {
      const Tensor values = state.tensors(model_.state_layout())[i].tensor;
      got.insert(got.end(), values.f32(), values.f32() + values.count());
    }
    fold(result(name), got.data(), want.f32(), got.size(), {way, tolerance_});
  }
}

// Compares the mean squared error against the target.
void RegressorCase::compare_loss(const Computed& computed) {
  if (expected_.find("loss") == nullptr) return;
  const Tensor target = floats("target", Shape{x_.dim(0), x_.dim(1), model_.regressor->output_size()});
  double sum = 0;
  for (size_t i = 0; i < computed.y.size(); ++i) {
    const double d = static_cast<double>(computed.y[i]) - static_cast<double>(target.f32()[i]);
    sum += d * d;
  }
  const auto got = static_cast<float>(sum / static_cast<double>(computed.y.size()));
  fold(result("loss"), &got, floats("loss", Shape{1}).f32(), 1, {"forward only", tolerance_});
}

void RegressorCase::compare_wiring() {
  const Json& source = model_.config.source;
  if (!source.contains("wiring")) return;
  const blocks::Wiring wiring = blocks::make_wiring(source["wiring"], model_.regressor->input_size(), where_);
  const auto compare_matrix = [&](const char* name, const std::vector<int8_t>& matrix) {
    const formats::TensorEntry* entry = expected_.find(name);
    if (entry == nullptr) return;
    if (entry->dtype != DType::kI32 || entry->shape.count() != static_cast<int64_t>(matrix.size())) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected I32 with {} entries", where_, name,
           dtype_name(entry->dtype), entry->shape.str(), matrix.size());
    }
    const Tensor values = entry->load();
    const std::vector<float> want(values.i32(), values.i32() + values.count());
    const std::vector<float> got(matrix.begin(), matrix.end());
    fold(result(name), got.data(), want.data(), want.size(), {"another circuit"});
  };
  compare_matrix("adjacency", wiring.adjacency);
  compare_matrix("sensory_adjacency", wiring.sensory);
}

std::vector<Comparison> RegressorCase::compare() {
  const auto batch = static_cast<size_t>(x_.dim(0));
  for (const Way& way : ways(x_.dim(0), x_.dim(1))) {
    const Computed batched = compute(0, batch, way.plan);
    compare_computed(batched, way.name);
    compare_loss(batched);
    const Computed alone = compute_alone(way.plan);
    compare_computed(alone, fmt::format("{}, alone", way.name));
    // Cells have the same bits everywhere; rounded products of a GPU do not (docs/numerics.md).
    const bool keeps_bits = kernel_traits(*setup_.stream.memory).rows_keep_bits || !setup_.rounds;
    if (!keeps_bits || same_bits(batched, alone)) continue;
    result("y").status = Status::kFail;
    result("y").note = fmt::format("{}: batched and alone differ in bits", way.name);
  }
  compare_wiring();
  if (expected_.find("target") != nullptr && model_.numerics->name == "native") {
    for (const Comparison& one : compare_training(folder_, expected_, setup_)) results_[one.name] = one;
  }
  std::vector<Comparison> out;
  for (const formats::TensorEntry& tensor : expected_.entries()) {
    if (tensor.name == "x" || tensor.name == "timespans" || tensor.name == "target") continue;
    Comparison& comparison = result(tensor.name);
    if (comparison.status == Status::kSkip && comparison.note.empty())
      comparison.note = "nothing in this build computes it";
    out.push_back(comparison);
  }
  return out;
}

}  // namespace

bool is_regressor_case(const std::string& folder) {
  const std::string path = model::resolve(folder).config;
  return model::parse_config(model::read_config(path), path).kind == model::ModelKind::kRegressor;
}

std::vector<Comparison> compare_regressor_case(const std::string& folder, const Setup& setup) {
  return RegressorCase(folder, setup).compare();
}

}  // namespace carousel::verify
