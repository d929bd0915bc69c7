// SPDX-License-Identifier: Apache-2.0
// Every registered block runs its real forward on meta, where tensors have shapes and no bytes, and its arena reserves
// there what it reserves on the CPU, byte for byte: memory is what the forward's own code asks for.
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "carousel/blocks/block.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/params.h"
#include "carousel/model/pass.h"
#include "carousel/model/profile.h"
#include "carousel/model/stack.h"
#include "tests/isas.h"

namespace carousel {
namespace {

constexpr int64_t kWidth = 64;
const Json kWirings = {{"wiring", {{"*", {{"type", "random"}, {"sparsity", 0.9}, {"seed", 1}}}}}};

struct Case {
  std::string block;
  DType weights = DType::kF32;
  int threads = 1;
  bool keeps_states = true, wired = false;
  std::string profile = "native";
};

model::ModelConfig config_of(const Case& c) {
  model::ModelConfig config;
  config.hidden_size = kWidth;
  config.num_layers = 1;
  const Json options = c.wired ? kWirings : Json::object();
  config.sublayers.push_back({0, "layers.0." + c.block, c.block, options, model::NormConfig{}});
  return config;
}

/// Bytes the arena holds after each of a few ragged forwards.
std::vector<size_t> reserved(const Case& c, Memory& memory, Isa isa) {
  ThreadPool pool(c.threads);
  const Stream stream{&memory, isa, &pool};
  std::optional<model::DrawnParams> drawn;
  std::optional<model::MetaParams> shapes;
  ParamSource* source = nullptr;
  if (memory.device() == Device::kMeta) {
    source = &shapes.emplace([&](const model::ParamRecord&) { return c.weights; });
  } else {
    source = &drawn.emplace(stream, 1, c.weights);
  }
  const model::Stack stack(config_of(c), Params(*source, ""), "test");
  const Numerics numerics = model::find_profile(c.profile);
  model::Pass pass(stream, numerics);
  std::vector<State> states(3);
  const std::vector<State*> pointers = {&states[0], &states[1], &states[2]};
  std::vector<size_t> sizes;
  for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{1, 1, 1}, {70, 0, 1}, {1, 200, 3}}) {
    const Tensor x = pass.arena().zeros({lengths[0] + lengths[1] + lengths[2], kWidth});
    const auto forward = [&](Ctx& ctx, const Seqs& seqs, const StateBatch* bound) {
      return stack.forward(ctx, x, seqs, bound);
    };
    const Tensor y =
        c.keeps_states ? pass.run(stack.state_layout(), pointers, lengths, {}, forward) : pass.run(lengths, forward);
    EXPECT_EQ(y.device(), memory.device());
    sizes.push_back(pass.arena().size_bytes());
  }
  return sizes;
}

void expect_alike(const Case& c) {
  for (const Isa isa : tested_isas()) {
    EXPECT_EQ(reserved(c, Memory::meta(), isa), reserved(c, Memory::host(), isa))
        << c.block << ", " << c.threads << " threads, " << dtype_name(c.weights) << ", " << c.profile
        << (c.keeps_states ? "" : ", no states") << (c.wired ? ", wired" : "");
  }
}

TEST(Meta, EveryBlockReservesWhatItDoesOnTheCpu) {
  for (const blocks::Entry& entry : blocks::registry()) {
    for (const DType weights : {DType::kF32, DType::kBF16, DType::kQ4}) {
      for (const int threads : {1, 3}) expect_alike({entry.name, weights, threads});
    }
    expect_alike({entry.name, DType::kF32, 2, false});
    expect_alike({entry.name, DType::kF32, 2, true, true});
    expect_alike({entry.name, DType::kBF16, 2, true, false, "torch-bf16"});
  }
}

}  // namespace
}  // namespace carousel
