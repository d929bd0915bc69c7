// SPDX-License-Identifier: Apache-2.0
// What every block owes by being registered, of its gradients: threads, neighbours in the batch and micro-batches
// change no bit, a tape changes no bit of the forward, and a cut passes the gradient of the state on. A new block is
// tested here without an edit.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "carousel/model/trained_params.h"
#include "carousel/ops/dropout/dropout.h"
#include "carousel/ops/tape.h"
#include "tests/blocks/random_params.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"
#include "tests/slow.h"

namespace carousel {
namespace {

struct GradientParam {
  std::string block;
  Isa isa;
};

/// Rows of some sequences and the gradient of their outputs.
struct Part {
  std::vector<Tensor> x;  // [T, D] each
  std::vector<Tensor> d;  // the same; empty: the loss depends on no output
  int64_t first = 0;      // the row of the run's data that the first sequence is; each is one
};

/// How a subject is trained.
struct How {
  bool recompute = false;
  bool drops = false;    // with dropout
  bool bf16 = false;     // products in bf16
  bool rounded = false;  // matrices rounded to bf16, products in f32
};

/// States that a forward is bound to.
struct Bound {
  std::vector<State>* states = nullptr;    // [B], moved on
  std::vector<State>* d_states = nullptr;  // [B] gradients of those after this forward, then of those before it
};

class TrainedSubject {
 public:
  TrainedSubject(const GradientParam& param, int threads, const How& how = {}, const model::TrainedChoice& choice = {})
      : machine_(param.isa, threads), how_(how) {
    if (how.bf16) machine_.stream.compute = Compute::kBF16;
    const model::ModelConfig config = stack_of(param.block);
    model::ParamList list;
    model::Stack(config, Params(list, ""), "test");
    RandomParams source(machine_.stream, DType::kF32);
    params_ = std::make_unique<model::TrainedParams>(source, machine_.stream, list.records(), choice);
    stack_ = std::make_unique<model::Stack>(config, Params(*params_, ""), "test");
    params_->clear_gradients();
    for (const model::TrainedParam& each : params_->params()) {
      const int64_t count = how.rounded && each.matrix ? each.master.count() : 0;
      for (float& value : std::span(each.master.f32(), static_cast<size_t>(count))) value = to_float(to_bf16(value));
    }
    params_->repack();
  }

  /// One forward and backward; gradients of parameters are added up. y and d_x of all rows.
  void run(const Part& part, Tensor* y, Tensor* d_x, const Bound& bound = {}) {
    std::vector<int64_t> lengths, ends;
    for (const Tensor& x : part.x) lengths.push_back(x.dim(0));
    Seqs seqs = sequences(lengths);
    StateBatch states, d_states;
    if (bound.states != nullptr) {
      for (size_t s = 0; s < lengths.size(); ++s) {
        seqs.pos[s] = (*bound.states)[s].pos();
        ends.push_back(seqs.pos[s] + lengths[s]);
      }
      states.bind(stack_->state_layout(), pointers(*bound.states), lengths);
    }
    if (bound.d_states != nullptr) d_states.bind(stack_->state_layout(), pointers(*bound.d_states), ends);
    Tape tape(params_->trained(), how_.recompute);
    ops::Dropout dropout = {0.2f, 7, {}};
    for (size_t s = 0; s < lengths.size(); ++s) {
      dropout.spans.push_back({seqs.offsets[s], part.first + static_cast<int64_t>(s), 0});
    }
    if (how_.drops) tape.drop(dropout);
    Grads grads(tape, bound.d_states != nullptr ? &d_states : nullptr);
    Ctx ctx = machine_.ctx;
    Tensor x = machine_.arena.empty({seqs.rows(), kWidth});
    const Tensor rows = joined(part.x);
    if (rows.count() > 0) std::memcpy(x.raw(), rows.raw(), rows.size_bytes());
    tape.watch(x);
    ctx.tape = &tape;
    *y = stack_->forward(ctx, x, seqs, bound.states != nullptr ? &states : nullptr);
    if (bound.states != nullptr) states.advance(lengths);
    ctx.tape = nullptr;
    if (tape.needs(*y) && !part.d.empty()) grads.give(ctx, *y, joined(part.d));  // without rows nothing is recorded
    tape.backward(ctx, grads);
    *d_x = grads.take(ctx, x);
    params_->finish_gradients();
  }
  Tensor forward(const Part& part) {
    std::vector<int64_t> lengths;
    for (const Tensor& x : part.x) lengths.push_back(x.dim(0));
    Ctx ctx = machine_.ctx;
    return stack_->forward(ctx, joined(part.x), sequences(lengths), nullptr);
  }

  const model::TrainedParams& params() const { return *params_; }
  const StateLayout& layout() const { return stack_->state_layout(); }
  std::vector<float> gradients() const {
    const Tensor& all = params_->gradients();
    return std::vector<float>(all.f32(), all.f32() + all.count());
  }

 private:
  static std::vector<State*> pointers(std::vector<State>& states) {
    std::vector<State*> out;
    for (State& state : states) out.push_back(&state);
    return out;
  }
  Machine machine_;
  How how_;
  std::unique_ptr<model::TrainedParams> params_;
  std::unique_ptr<model::Stack> stack_;
};

Part random_part(const std::vector<int64_t>& lengths, uint64_t seed) {
  Part part;
  for (const int64_t length : lengths) {
    part.x.push_back(random_tensor({length, kWidth}, seed++));
    part.d.push_back(random_tensor({length, kWidth}, seed++, 0.1f));
  }
  return part;
}

Part only(const Part& part, size_t s) { return {{part.x[s]}, {part.d[s]}, part.first + static_cast<int64_t>(s)}; }

/// The same rows, where the loss depends on those of one sequence.
Part with_loss_of(Part part, size_t s) {
  const Tensor kept = part.d[s];
  for (Tensor& d : part.d) d = Tensor(d.shape(), DType::kF32);
  part.d[s] = kept;
  return part;
}

bool same_tensors(const NamedTensors& a, const NamedTensors& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const NamedTensor& x, const NamedTensor& y) { return same_bits(x.tensor, y.tensor); });
}

class BlockGradients : public testing::TestWithParam<GradientParam> {
 protected:
  TrainedSubject subject(int threads = 2) const { return TrainedSubject(GetParam(), threads); }
};

TEST_P(BlockGradients, ATapeChangesNoBitOfTheForward) {
  const Part part = random_part({70, 0, 3, 130}, 1);
  TrainedSubject taped(GetParam(), 2), plain(GetParam(), 2);
  Tensor y, d_x;
  taped.run(part, &y, &d_x);
  EXPECT_TRUE(same_bits(y, plain.forward(part)));
}

TEST_P(BlockGradients, ThreadsChangeNoBit) {
  const Part part = random_part({70, 0, 3, 130}, 1);
  TrainedSubject two(GetParam(), 2);
  Tensor y, d_x;
  two.run(part, &y, &d_x);
  for (const int threads : {1, 3}) {
    TrainedSubject other(GetParam(), threads);
    Tensor other_y, other_d_x;
    other.run(part, &other_y, &other_d_x);
    EXPECT_TRUE(same_bits(other_d_x, d_x)) << threads;
    EXPECT_EQ(other.gradients(), two.gradients()) << threads;
  }
}

TEST_P(BlockGradients, ASequenceAloneEqualsItAmongOthers) {
  const Part part = random_part({70, 0, 3, 130}, 1);
  int64_t first = 0;
  for (size_t s = 0; s < part.x.size(); ++s) {
    const Part masked = with_loss_of(part, s);
    TrainedSubject packed(GetParam(), 2), alone(GetParam(), 2);
    Tensor y, packed_d_x, alone_d_x;
    packed.run(masked, &y, &packed_d_x);
    alone.run(only(part, s), &y, &alone_d_x);
    const int64_t rows = part.x[s].dim(0);
    EXPECT_TRUE(rows == 0 || same_bits(packed_d_x.f32() + first * kWidth, alone_d_x.f32(), rows * kWidth)) << s;
    EXPECT_EQ(packed.gradients(), alone.gradients()) << s;
    first += rows;
  }
}

TEST_P(BlockGradients, MicroBatchesEqualTheBatch) {
  const Part part = random_part({70, 5, 3, 130}, 1);
  TrainedSubject whole(GetParam(), 2), parts(GetParam(), 2);
  Tensor y, d_x;
  whole.run(part, &y, &d_x);
  parts.run({{part.x[0]}, {part.d[0]}}, &y, &d_x);
  parts.run({{part.x[1], part.x[2]}, {part.d[1], part.d[2]}}, &y, &d_x);
  parts.run({{part.x[3]}, {part.d[3]}}, &y, &d_x);
  EXPECT_EQ(parts.gradients(), whole.gradients());
}

TEST_P(BlockGradients, ACutPassesTheGradientOfTheStateOn) {
  const int64_t length = 150;
  const Part part = random_part({length, length}, 5);
  TrainedSubject whole(GetParam(), 2);
  Tensor y, d_x;
  whole.run(part, &y, &d_x);
  for (const int64_t cut : {64, 81}) {
    TrainedSubject forward(GetParam(), 2), back(GetParam(), 2);
    Part first, second;
    for (size_t s = 0; s < 2; ++s) {
      first.x.push_back(part.x[s].rows(0, cut));
      first.d.push_back(part.d[s].rows(0, cut));
      second.x.push_back(part.x[s].rows(cut, length));
      second.d.push_back(part.d[s].rows(cut, length));
    }
    std::vector<State> zero(2), d_states(2);
    Tensor other_y, first_d, second_d;
    std::vector<State> middle(2);
    forward.run(first, &other_y, &first_d, {&middle});  // the states between the halves
    back.run(second, &other_y, &second_d, {&middle, &d_states});
    back.run(first, &other_y, &first_d, {&zero, &d_states});
    std::vector<float> got;
    for (size_t s = 0; s < 2; ++s) {
      const auto at = [&](const Tensor& d, int64_t rows) { return d.f32() + static_cast<int64_t>(s) * rows * kWidth; };
      got.insert(got.end(), at(first_d, cut), at(first_d, cut) + cut * kWidth);
      got.insert(got.end(), at(second_d, length - cut), at(second_d, length - cut) + (length - cut) * kWidth);
    }
    EXPECT_LT(relative_error(got.data(), to_f64(d_x)), 1e-5) << cut;
    EXPECT_LT(relative_error(back.gradients().data(), to_f64(whole.params().gradients())), 1e-5) << cut;
  }
}

// A parameter that an op reads from a copy would silently keep its value.
TEST_P(BlockGradients, EveryParameterHasOne) {
  TrainedSubject subject(GetParam(), 2);
  Tensor y, d_x;
  subject.run(random_part({70, 20}, 9), &y, &d_x);
  for (const model::TrainedParam& param : subject.params().params()) {
    if (!param.trained) continue;
    const bool chosen = param.name.find("expert") == std::string::npos;  // no row may choose an expert
    const float* const gradient = param.gradient.f32();
    const bool any = std::any_of(gradient, gradient + param.gradient.count(), [](float g) { return g != 0; });
    EXPECT_TRUE(any || !chosen) << param.name;
  }
}

TEST_P(BlockGradients, AStateCarriesTheGradientToAPartWithoutALoss) {
  const int64_t length = 150, cut = 81;
  const Part part = random_part({length}, 5);
  std::memset(part.d[0].raw(), 0, static_cast<size_t>(cut * kWidth) * sizeof(float));
  const Part first = {{part.x[0].rows(0, cut)}, {}};
  const Part second = {{part.x[0].rows(cut, length)}, {part.d[0].rows(cut, length)}};
  TrainedSubject whole(GetParam(), 2), forward(GetParam(), 2), back(GetParam(), 2);
  Tensor y, d_x, first_d, second_d;
  whole.run(part, &y, &d_x);
  std::vector<State> zero(1), middle(1), d_states(1);
  forward.run(first, &y, &first_d, {&middle, nullptr});
  back.run(second, &y, &second_d, {&middle, &d_states});
  back.run(first, &y, &first_d, {&zero, &d_states});
  EXPECT_LT(relative_error(back.gradients().data(), to_f64(whole.params().gradients())), 1e-5);
  if (forward.layout().entries().empty()) return;  // rows are on their own: the first part has no gradient
  ASSERT_TRUE(first_d.defined());
  EXPECT_LT(relative_error(first_d.f32(), to_f64(d_x.rows(0, cut).clone())), 1e-5);
}

TEST_P(BlockGradients, RecomputeChangesNoBit) {
  const Part part = random_part({70, 0, 3, 130}, 1), next = random_part({65, 7, 0, 20}, 31);
  TrainedSubject kept(GetParam(), 2), again(GetParam(), 2, {.recompute = true});
  for (const bool stateful : {false, true}) {
    std::vector<State> states(4), other_states(4);
    for (const Part* rows : {&part, &next}) {
      std::vector<State> d_states(4), other_d_states(4);
      Tensor y, d_x, other_y, other_d_x;
      kept.run(*rows, &y, &d_x, stateful ? Bound{&states, &d_states} : Bound{});
      again.run(*rows, &other_y, &other_d_x, stateful ? Bound{&other_states, &other_d_states} : Bound{});
      EXPECT_TRUE(same_bits(other_y, y)) << stateful;
      EXPECT_TRUE(same_bits(other_d_x, d_x)) << stateful;
      EXPECT_EQ(again.gradients(), kept.gradients()) << stateful;
      for (size_t s = 0; s < states.size() && stateful; ++s) {
        EXPECT_TRUE(same_tensors(other_states[s].tensors(kept.layout()), states[s].tensors(kept.layout()))) << s;
        EXPECT_TRUE(same_tensors(other_d_states[s].tensors(kept.layout()), d_states[s].tensors(kept.layout()))) << s;
      }
    }
  }
}

TEST_P(BlockGradients, FreezingChangesNoBitOfTheOthers) {
  const Part part = random_part({70, 0, 3, 130}, 1);
  TrainedSubject whole(GetParam(), 2);
  Tensor y, d_x, other_y, other_d_x;
  whole.run(part, &y, &d_x);
  for (const int kept : {0, 1, 2}) {  // every second parameter, the others, none
    int64_t place = 0;
    model::TrainedChoice choice;
    choice.is_trained = [&](const model::ParamRecord&) { return place++ % 2 == kept; };
    TrainedSubject frozen(GetParam(), 2, {}, choice);
    frozen.run(part, &other_y, &other_d_x);
    EXPECT_TRUE(same_bits(other_y, y)) << kept;
    EXPECT_TRUE(same_bits(other_d_x, d_x)) << kept;
    for (size_t i = 0; i < whole.params().params().size(); ++i) {
      const model::TrainedParam &want = whole.params().params()[i], &got = frozen.params().params()[i];
      EXPECT_EQ(got.gradient.defined(), got.trained) << got.name;
      EXPECT_TRUE(!got.trained || same_bits(got.gradient, want.gradient)) << got.name;
    }
  }
}

struct Result {
  std::vector<float> gradients;
  Tensor d_x;
  bool operator==(const Result& other) const { return gradients == other.gradients && same_bits(d_x, other.d_x); }
};

Result trained(const GradientParam& param, int threads, const How& how, const Part& part) {
  TrainedSubject subject(param, threads, how);
  Tensor y, d_x;
  subject.run(part, &y, &d_x);
  return {subject.gradients(), d_x};
}

// What is dropped is known by its place in the run, and sums in bf16 go row by row as those in f32 do.
TEST_P(BlockGradients, DropoutAndBF16KeepThePromises) {
  const Part part = random_part({70, 5, 3, 130}, 1);
  const Result plain = trained(GetParam(), 2, {}, part);
  for (const How& how : {How{.drops = true}, How{.bf16 = true}, How{.drops = true, .bf16 = true}}) {
    const Result whole = trained(GetParam(), 2, how, part);
    EXPECT_TRUE(!how.drops || !(whole == plain));
    for (const int threads : {1, 3}) EXPECT_TRUE(trained(GetParam(), threads, how, part) == whole) << threads;
    EXPECT_TRUE(trained(GetParam(), 2, {.recompute = true, .drops = how.drops, .bf16 = how.bf16}, part) == whole);
    TrainedSubject parts(GetParam(), 2, how);
    Tensor y, d_x;
    parts.run(only(part, 0), &y, &d_x);
    parts.run({{part.x[1], part.x[2]}, {part.d[1], part.d[2]}, 1}, &y, &d_x);
    parts.run(only(part, 3), &y, &d_x);
    EXPECT_EQ(parts.gradients(), whole.gradients) << how.drops << how.bf16;
    for (size_t s = 0; s < part.x.size(); ++s) {
      const Result alone = trained(GetParam(), 2, how, only(part, s));
      EXPECT_EQ(trained(GetParam(), 2, how, with_loss_of(part, s)).gradients, alone.gradients) << s;
    }
  }
}

// Gradients in bf16 are those in f32 but for the rounding of factors. Where a block is badly conditioned (mLSTM divides
// by a sum that may cancel), f32 itself moves as far once its weights are rounded, which is part of what bf16 does.
TEST_P(BlockGradients, BF16IsNearF32) {
  const Part part = random_part({70, 0, 3, 130}, 1);
  const Result f32 = trained(GetParam(), 2, {}, part), bf16 = trained(GetParam(), 2, {.bf16 = true}, part);
  const Result moved = trained(GetParam(), 2, {.rounded = true}, part);
  const std::vector<double> w(f32.gradients.begin(), f32.gradients.end()), x = to_f64(f32.d_x);
  const double w_bound = 3 * relative_error(moved.gradients.data(), w),
               x_bound = 3 * relative_error(moved.d_x.f32(), x);
  EXPECT_LT(relative_error(bf16.gradients.data(), w), std::max(0.02, w_bound));
  EXPECT_LT(relative_error(bf16.d_x.f32(), x), std::max(0.02, x_bound));
}

TEST_P(BlockGradients, MaskedWeightsHaveNone) {
  const Part part = random_part({70, 20}, 9);
  TrainedSubject subject(GetParam(), 2);
  Tensor y, d_x;
  subject.run(part, &y, &d_x);
  int64_t masked = 0, live = 0;  // an expert that no row chose has no gradient at all
  for (const model::TrainedParam& param : subject.params().params()) {
    if (param.init.mask == nullptr) continue;
    ++masked;
    const Mask& mask = *param.init.mask;
    std::vector<int8_t> row(static_cast<size_t>(mask.cols()));
    for (int64_t r = 0; r < mask.rows(); ++r) {
      mask.row(r, row.data());
      for (int64_t c = 0; c < mask.cols(); ++c) {
        const float gradient = param.gradient.f32()[r * mask.cols() + c];
        if (row[static_cast<size_t>(c)] == 0) {
          ASSERT_EQ(gradient, 0.0f) << param.name;
        } else {
          live += gradient != 0;
        }
      }
    }
  }
  EXPECT_TRUE(masked == 0 || live > 0);
}

std::vector<GradientParam> gradient_subjects() {
  std::vector<GradientParam> out;
  for (const Isa isa : tested_isas()) {
    for (const blocks::Entry& entry : blocks::registry()) out.push_back({entry.name, isa});
    for (const char* stack : {"all", "all_wired"}) out.push_back({stack, isa});
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Registry, BlockGradients, testing::ValuesIn(gradient_subjects()), [](const auto& named) {
  return named.param.block + "_" + std::string(cpu::isa_name(named.param.isa));
});

}  // namespace
}  // namespace carousel
