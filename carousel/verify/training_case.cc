// SPDX-License-Identifier: Apache-2.0
// Trains a case's model on its batch, and compares gradients and parameters under the names of its files.
#include "carousel/verify/training_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/forecast/tirex.h"
#include "carousel/model/families/family.h"
#include "carousel/model/model_writer.h"
#include "carousel/ops/kernel.h"
#include "carousel/train/objective.h"
#include "carousel/train/optimiser.h"
#include "carousel/verify/drift.h"

namespace carousel::verify {
namespace {

using Status = Comparison::Status;

// Gradients agree to 2e-4, or to 1e-6 of the largest one: some of gates are near zero.
constexpr double kGradients = 2e-4, kOfLargest = 1e-6, kParameters = 1e-3;
// Adam divides a gradient by its size, so that rounding alone decides the sign of small updates, and some models answer
// with another loss at once: transformers' own float64 run of hf-xlstm-single ends 2.6e-2 from its float32 run. So the
// steps are taken again with gradients that differ by as much as agreeing ones may, and parameters may be so many times
// as far from the expected ones as that run ends from ours.
constexpr double kSpread = 4;

// Steps of Muon with its iteration in f32 end 1e-5 from a float64 run. torch's own class iterates in bf16, whose
// numbers nobody else can equal closely: they are up to 3e-2 from those of the f32 iteration.
// The norms of the gradients alone are not that well conditioned: transformers' own f32 run of muon-xlstm ends 2.1e-4
// from the stored third norm on another processor, its f64 run 6.6e-5.
constexpr double kMuon = 1e-4, kMuonNorms = 5e-4, kMuonBf16 = 4e-2;
constexpr size_t kNorms = 1;  // their place in what take_steps returns

// Of language models and models of features the loss of a case is compared by the forward. It is found within 1e-7.
constexpr double kForecastLoss = 2e-6;

const std::string kLoss = "loss", kGrad = "grad.", kAdamW = "adamw.";
const std::string kMuonIds = "muon.ids";

/// Steps of Muon that a case may hold.
struct MuonSteps {
  std::string prefix;
  bool gates;  // Muon takes the matrices of gates too
  double tolerance;
};
const MuonSteps kMuonSteps[] = {
    {"muon_f32.", false, kMuon}, {"muon_f32_gates.", true, kMuon}, {"muon.", false, kMuonBf16}};

struct Named {
  std::string name;
  std::vector<float> values;
};

class TrainingCase {
 public:
  TrainingCase(const std::string& folder, const formats::SafetensorsFile& expected, const Stream& stream,
               const std::string& base)
      : where_(folder + "/expected.safetensors"),
        expected_(expected),
        stream_(stream),
        trained_(load(folder, stream, base)),
        batch_(read_batch()) {
    const model::ModelConfig& config = trained_.model.config;
    const model::TensorNames names = model::find_family(config.model_type, where_).names;
    for (const model::ParamRecord& record : trained_.records) {
      if (record.init.kind != Init::Kind::kMask) records_.push_back(record);
    }
    tensors_ = model::file_tensors(config, names, records_,
                                   [&](const std::string& name) { return expected.find(kGrad + name) != nullptr; });
  }
  static model::TrainedModel load(const std::string& folder, const Stream& stream, const std::string& base) {
    model::Tuning tuning;
    if (!base.empty()) tuning.adapter = folder;
    return model::load_trained(base.empty() ? folder : base, stream, 0, tuning);
  }

  std::vector<Comparison> compare();

 private:
  Tensor floats(const std::string& name) const;
  train::Batch read_batch() const;
  train::Batch read_tokens(const std::string& name) const;
  train::Batch read_features() const;
  train::Batch read_series() const;
  /// The trained tensors as files name them: values, or gradients.
  std::vector<Named> trained_tensors(bool gradients) const;
  /// A tensor of the file, put together from what `values` has of its parameters.
  std::vector<float> assembled(const model::FileTensor& tensor, bool gradients) const;
  double add_gradients(train::Objective& objective, const train::Batch& batch);
  void compare_gradients();
  void compare_steps(train::Objective& objective);
  void compare_muon(train::Objective& objective, const MuonSteps& steps);
  bool expects(const std::string& prefix) const;
  std::vector<std::string> step_names(const std::string& prefix) const;
  std::vector<std::vector<float>> take_steps(train::Objective& objective, const train::Batch& batch,
                                             const train::OptimiserOptions& options, double noise);
  void add_noise(double noise);
  void judge(const std::string& name, const std::vector<float>& got, double tolerance, double absolute = 0);

  std::string where_;
  const formats::SafetensorsFile& expected_;
  const Stream& stream_;
  model::TrainedModel trained_;
  train::Batch batch_;
  std::vector<model::ParamRecord> records_;
  std::vector<model::FileTensor> tensors_;
  std::map<std::string, Comparison> results_;
};

Tensor TrainingCase::floats(const std::string& name) const {
  const formats::TensorEntry* entry = expected_.find(name);
  if (entry == nullptr) fail(ErrorKind::kInput, "{}: \"{}\" is missing", where_, name);
  if (!is_float(entry->dtype)) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected floating-point numbers", where_, name,
         dtype_name(entry->dtype));
  }
  return entry->load().to_f32();
}

train::Batch TrainingCase::read_batch() const {
  if (trained_.model.lm != nullptr) return read_tokens("train.ids");
  return trained_.model.forecaster != nullptr ? read_series() : read_features();
}

/// Ids [B, T + 1]: inputs are all but the last, targets all but the first.
train::Batch TrainingCase::read_tokens(const std::string& name) const {
  const formats::TensorEntry* entry = expected_.find(name);
  if (entry == nullptr || entry->dtype != DType::kI64 || entry->shape.rank() != 2 || entry->shape[1] < 2) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected I64 [B, T + 1]", where_, name,
         entry == nullptr ? "missing" : entry->shape.str());
  }
  const Tensor ids = entry->load();
  train::Batch batch;
  const int64_t width = entry->shape[1];
  for (int64_t i = 0; i < ids.count(); ++i) {
    const int64_t id = ids.i64()[i];
    if (id < 0 || id >= trained_.model.config.vocab_size) {
      fail(ErrorKind::kInput, "{}: \"{}\" holds {}, expected 0 to {} (vocab_size)", where_, name, id,
           trained_.model.config.vocab_size - 1);
    }
    if (i % width + 1 < width) batch.tokens.push_back(static_cast<int32_t>(id));
    if (i % width > 0) batch.targets.push_back(static_cast<int32_t>(id));
  }
  batch.lengths.assign(static_cast<size_t>(entry->shape[0]), width - 1);
  return batch;
}

/// x [B, T, I], target [B, T, O] and, if they are there, timespans [B, T].
train::Batch TrainingCase::read_features() const {
  const Tensor x = floats("x"), target = floats("target");
  const model::Regressor& regressor = *trained_.model.regressor;
  check_shape("x", where_.c_str(), x, {-1, -1, regressor.input_size()});
  check_shape("target", where_.c_str(), target, {x.dim(0), x.dim(1), regressor.output_size()});
  const int64_t rows = x.dim(0) * x.dim(1);
  train::Batch batch;
  batch.features = x.reshape({rows, regressor.input_size()});
  batch.wanted = target.reshape({rows, regressor.output_size()});
  if (expected_.find("timespans") != nullptr) batch.elapsed = floats("timespans").reshape({rows});
  batch.lengths.assign(static_cast<size_t>(x.dim(0)), x.dim(1));
  return batch;
}

/// A context [B, T] and the patch after it [B, P], where NaN is missing. A token's target is the patch after its own,
/// in units of the context's scale.
train::Batch TrainingCase::read_series() const {
  const model::PatchConfig& patches = trained_.model.config.patches;
  const Tensor context = floats("train.context"), future = floats("train.future");
  check_shape("train.context", where_.c_str(), context, {-1, patches.tokens() * patches.patch});
  check_shape("train.future", where_.c_str(), future, {context.dim(0), patches.patch});
  const int64_t series = context.dim(0), tokens = patches.tokens(), patch = patches.patch;
  train::Batch batch;
  batch.features = Tensor({series * tokens, 2 * patch}, DType::kF32);
  batch.wanted = Tensor({series * tokens, patch}, DType::kF32);
  batch.lengths.assign(static_cast<size_t>(series), tokens);
  for (int64_t s = 0; s < series; ++s) {
    const float* const values = context.f32() + s * tokens * patch;
    const std::span<const float> seen(values, static_cast<size_t>(tokens * patch));
    const forecast::Scale scale = forecast::find_scale(seen);
    forecast::fill_tokens(seen, scale, patch, batch.features.f32() + s * tokens * 2 * patch);
    float* const wanted = batch.wanted.f32() + s * tokens * patch;
    std::copy(values + patch, values + tokens * patch, wanted);
    std::copy_n(future.f32() + s * patch, patch, wanted + (tokens - 1) * patch);
    std::transform(wanted, wanted + tokens * patch, wanted,
                   [&](float value) { return (value - scale.location) / scale.scale; });
  }
  return batch;
}

std::vector<float> TrainingCase::assembled(const model::FileTensor& tensor, bool gradients) const {
  const auto values = [&](const model::ParamRecord& record, float* out) {
    const auto index = static_cast<size_t>(&record - records_.data());
    const model::TrainedParam& param = trained_.params->params()[index];
    if (gradients && !param.trained) {
      std::fill(out, out + param.shape.count(), 0.0f);  // fixed parameters have none
      return;
    }
    const Tensor& from = gradients ? param.gradient : param.master;
    std::memcpy(out, from.f32(), from.size_bytes());
  };
  const Tensor whole = model::file_values(tensor, records_, values);
  return std::vector<float>(whole.f32(), whole.f32() + whole.count());
}

std::vector<Named> TrainingCase::trained_tensors(bool gradients) const {
  std::vector<Named> out;
  if (trained_.params->adapter().modules.empty()) {
    for (const model::FileTensor& tensor : tensors_) out.push_back({tensor.name, assembled(tensor, gradients)});
    return out;
  }
  for (const NamedTensor& named : trained_.params->adapter_tensors(gradients)) {
    const float* const values = named.tensor.f32();
    out.push_back({named.name, {values, values + named.tensor.count()}});
  }
  return out;
}

double TrainingCase::add_gradients(train::Objective& objective, const train::Batch& batch) {
  trained_.params->clear_gradients();
  const auto count = static_cast<double>(batch.counted());
  double sum = 0;
  objective.add_gradients(batch, static_cast<float>(1 / count), &sum);
  trained_.params->finish_gradients();
  return sum / count;
}

void TrainingCase::judge(const std::string& name, const std::vector<float>& got, double tolerance, double absolute) {
  if (expected_.find(name) == nullptr) return;
  const Tensor want = floats(name);
  Comparison& out = results_[name];
  out.name = name;
  if (want.count() != static_cast<int64_t>(got.size())) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected {} elements", where_, name, want.shape().str(), got.size());
  }
  Drift drift;
  drift.add(want.f32(), got.data(), want.count());
  out.relative = drift.relative();
  out.largest = drift.largest;
  double difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want.f32()[i]);
    difference += d * d;
  }
  const bool agrees = out.relative <= tolerance || std::sqrt(difference) <= absolute;
  out.status = agrees ? Status::kOk : Status::kFail;
}

void TrainingCase::compare_gradients() {
  double largest = 0;  // norm of a gradient
  for (const formats::TensorEntry& entry : expected_.entries()) {
    if (!entry.name.starts_with(kGrad)) continue;
    const Tensor want = floats(entry.name);
    double sum = 0;
    for (int64_t i = 0; i < want.count(); ++i) sum += std::pow(static_cast<double>(want.f32()[i]), 2);
    largest = std::max(largest, std::sqrt(sum));
  }
  for (const Named& tensor : trained_tensors(true)) {
    judge(kGrad + tensor.name, tensor.values, kGradients, kOfLargest * largest);
  }
}

/// Adds to every gradient noise of so much times its own size.
void TrainingCase::add_noise(double noise) {
  Rng rng(1);
  for (const model::TrainedParam& param : trained_.params->params()) {
    if (!param.trained) continue;
    const int64_t count = param.gradient.count();
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += std::pow(static_cast<double>(param.gradient.f32()[i]), 2);
    const double deviation = noise * std::sqrt(sum / static_cast<double>(std::max<int64_t>(count, 1)));
    for (int64_t i = 0; i < count; ++i) param.gradient.f32()[i] += static_cast<float>(deviation * rng.normal());
  }
}

/// Three steps on a batch: rate 1e-2, betas 0.9 and 0.95, decay 0.1, clip 1 (docs/formats.md); of Muon 2e-2. Returns
/// losses, norms, and the tensors of the file; the parameters are then as they were.
std::vector<std::vector<float>> TrainingCase::take_steps(train::Objective& objective, const train::Batch& batch,
                                                         const train::OptimiserOptions& options, double noise) {
  const Tensor start = trained_.params->masters().clone();
  train::Optimiser optimiser(*trained_.params, stream_, options);
  std::vector<std::vector<float>> out(2);
  for (int step = 0; step < 3; ++step) {
    out[0].push_back(static_cast<float>(add_gradients(objective, batch)));
    if (noise > 0) add_noise(noise);
    const double norm = optimiser.norm();
    out[1].push_back(static_cast<float>(norm));
    optimiser.step(1e-2, norm);
  }
  for (Named& tensor : trained_tensors(false)) out.push_back(std::move(tensor.values));
  std::memcpy(trained_.params->masters().f32(), start.f32(), start.size_bytes());
  trained_.params->repack();
  return out;
}

void TrainingCase::compare_steps(train::Objective& objective) {
  const std::vector<std::string> names = step_names(kAdamW);
  const std::vector<std::vector<float>> steps = take_steps(objective, batch_, {}, 0),
                                        others = take_steps(objective, batch_, {}, kGradients);
  for (size_t i = 0; i < names.size(); ++i) {
    Drift spread;
    spread.add(steps[i].data(), others[i].data(), static_cast<int64_t>(steps[i].size()));
    judge(names[i], steps[i], std::max(kParameters, kSpread * spread.relative()));
  }
}

void TrainingCase::compare_muon(train::Objective& objective, const MuonSteps& steps) {
  train::OptimiserOptions options;
  options.method = train::OptimiserOptions::Method::kMuon;
  options.muon_gates = steps.gates;
  const std::vector<std::string> names = step_names(steps.prefix);
  const train::Batch batch = read_tokens(kMuonIds);
  const std::vector<std::vector<float>> taken = take_steps(objective, batch, options, 0);
  for (size_t i = 0; i < names.size(); ++i) {
    judge(names[i], taken[i], i == kNorms ? std::max(steps.tolerance, kMuonNorms) : steps.tolerance);
  }
}

bool TrainingCase::expects(const std::string& prefix) const {
  const auto& entries = expected_.entries();
  return std::any_of(entries.begin(), entries.end(),
                     [&](const formats::TensorEntry& entry) { return entry.name.starts_with(prefix); });
}

/// The names of what take_steps returns.
std::vector<std::string> TrainingCase::step_names(const std::string& prefix) const {
  std::vector<std::string> names = {prefix + "losses", prefix + "grad_norms"};
  for (const Named& tensor : trained_tensors(false)) names.push_back(prefix + tensor.name);
  return names;
}

std::vector<Comparison> TrainingCase::compare() {
  train::Objective objective(trained_, stream_);
  const auto loss = static_cast<float>(add_gradients(objective, batch_));
  if (trained_.model.forecaster != nullptr) judge(kLoss, {loss}, kForecastLoss);
  compare_gradients();
  if (expects(kAdamW)) compare_steps(objective);
  for (const MuonSteps& steps : kMuonSteps) {
    if (expects(steps.prefix)) compare_muon(objective, steps);
  }
  std::vector<Comparison> out;
  for (const formats::TensorEntry& entry : expected_.entries()) {
    const auto found = results_.find(entry.name);
    if (!is_training(entry.name) && found == results_.end()) continue;
    if (found != results_.end()) {
      out.push_back(found->second);
    } else {
      out.push_back({entry.name, Status::kSkip, 0, 0, "no parameter of the model has this name"});
    }
  }
  return out;
}

}  // namespace

bool is_training(const std::string& name) {
  const bool of_muon = std::any_of(std::begin(kMuonSteps), std::end(kMuonSteps),
                                   [&](const MuonSteps& steps) { return name.starts_with(steps.prefix); });
  return name != kMuonIds && (of_muon || name.starts_with(kGrad) || name.starts_with(kAdamW));
}

std::vector<Comparison> compare_training(const std::string& folder, const formats::SafetensorsFile& expected,
                                         const Setup& setup, const std::string& base) {
  const bool trains = kernel_traits(*setup.stream.memory).trains;
  if (!trains || setup.rounds) {
    const std::string reason = trains ? "gradients are compared in f32 alone" : "gradients are not on this device";
    std::vector<Comparison> skipped;
    for (const formats::TensorEntry& entry : expected.entries()) {
      if (is_training(entry.name)) skipped.push_back({entry.name, Status::kSkip, 0, 0, reason});
    }
    return skipped;
  }
  return TrainingCase(folder, expected, setup.stream, base).compare();
}

}  // namespace carousel::verify
